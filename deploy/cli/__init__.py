"""The `drape` command. Every command has `--json`: one object a line, the result last.

Exit codes: 0 it worked (a preview: ready), 1 it failed, with the reason, 2 wrong use.
"""
