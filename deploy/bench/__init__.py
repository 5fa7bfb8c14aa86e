"""Measurements: each beside the bare cost of the same work, in the same run. They judge nothing."""
