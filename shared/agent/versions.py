"""Which version of the wire two sides speak that are not of one release. Pure."""


def common(theirs: tuple[int, int], ours: tuple[int, int]) -> int | None:
    """The newest version within both ranges (oldest, newest), or None."""
    oldest, newest = max(theirs[0], ours[0]), min(theirs[1], ours[1])
    return newest if oldest <= newest else None
