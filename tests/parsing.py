"""Reads Python sources into trees, safely also after other tests have met the recursion limit.

CPython 3.11 loses count of the tree's depth once a RecursionError was raised in the process while a tree was made
(python/cpython issue 106905): from then on `ast.parse` fails by chance. A thread of its own counts from zero.
"""

import ast
import gc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TRIES = 5


def parsed(path: Path) -> ast.Module:
    """The file's tree. Raises SyntaxError for what is no Python, SystemError where it fails time and again."""
    source = path.read_text("utf-8")
    for left in reversed(range(TRIES)):
        try:
            with ThreadPoolExecutor(1) as fresh:
                return fresh.submit(_parse, source).result()
        except SystemError:
            if not left:
                raise
    raise AssertionError("the last try returns or raises")


def _parse(source: str) -> ast.Module:
    """Without a collection of garbage in between, which may run what meets the limit itself."""
    gc.disable()
    try:
        return ast.parse(source)
    finally:
        gc.enable()
