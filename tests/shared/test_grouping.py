"""Texts of errors without what differs from one occurrence to the next."""

import pytest

from shared.grouping import TEXT_CHARS_MAX, normalised


@pytest.mark.parametrize(
    ("text", "others"),
    [
        ("Port 5173 is in use by process 4711.", ("Port 3000 is in use by process 9.",)),
        (
            "The package 'left-pat' does not exist.",
            ('The package "lodahs" does not exist.', "The package `a b` does not exist."),
        ),
        (
            "Cannot find /home/ann/shop/src/main.ts",
            ("Cannot find /srv/x.js", "Cannot find ./src/main.ts", "Cannot find C:\\\\a\\\\b.js"),
        ),
        ("Cannot find src/main.ts here", ("Cannot find packages/app/src/other.tsx here",)),
        (
            "Get https://registry.npmjs.org/react failed after 12.5 s",
            ("Get http://localhost:4873/@a/b failed after 3 s",),
        ),
        ("VM vm-000042 is silent", ("VM vm-000001 is silent",)),
        ("commit 9f8e7d6c5b4a gone", ("commit 0123abcdef gone",)),
        ("preview 01m85ea33eaz0eb705bndx9q4g ended", ("preview 01m85ea2zq5bq7f2x9s1v4t8ny ended",)),
        ("needs node 22.1.0  or\nnewer", ("needs node 24 or newer",)),
    ],
)
def test_what_differs_only_in_values_is_the_same(text: str, others: tuple[str, ...]) -> None:
    for other in others:
        assert normalised(other) == normalised(text)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("The package manager ended with code 1.", "The package manager was killed."),
        ("The file /a/b has a syntax error.", "The file /a/b does not exist."),
        ("and/or", "and so on"),
    ],
)
def test_other_words_are_another_cause(one: str, other: str) -> None:
    assert normalised(one) != normalised(other)


def test_a_long_text_counts_by_its_beginning() -> None:
    assert normalised("x" * TEXT_CHARS_MAX + "y") == normalised("x" * TEXT_CHARS_MAX + "z")


def test_normalising_again_changes_nothing() -> None:
    """The kinds that stand for values are no values themselves."""
    text = "Port 5173 of 'x' in /a/b at http://h/ is vm-1 0xff"
    assert normalised(normalised(text)) == normalised(text)
