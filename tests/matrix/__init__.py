"""The matrix: a small project of every framework, from its lock file to a preview that answers."""
