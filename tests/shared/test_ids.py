"""Ids are sortable, fit into subjects and host names, and a retried command makes the same ones."""

import pytest
from hypothesis import given as given_any
from hypothesis import strategies as st

from shared.ids import derive, is_token
from shared.ulids import new_id

PARENT = "01jd8zq5k3m4n5p6q7r8s9t0v1"


def test_derived_ids_are_the_same_every_time() -> None:
    """On every machine and in every version: they are the storage format."""
    assert derive(PARENT, "preview", 1) == derive(PARENT, "preview", 1)
    assert derive(PARENT, "preview", 1) == derive(PARENT, "preview", "1")


@given_any(st.text(max_size=40), st.lists(st.text(max_size=10) | st.integers(), min_size=1, max_size=4))
def test_derived_ids_are_ids(parent: str, names: list[str | int]) -> None:
    """26 characters that may stand in a subject and in a host name, whatever they came from."""
    derived = derive(parent, *names)
    assert (len(derived), is_token(derived)) == (26, True)


def test_derived_ids_differ() -> None:
    """By parent, by name, by number, by depth."""
    ids = [derive(PARENT, "a"), derive(PARENT, "b"), derive(PARENT, "a", 1), derive(PARENT, "a", 2)]
    ids += [derive(PARENT[:-1] + "2", "a"), derive(derive(PARENT, "a"), "a"), derive("free text", "a"), derive("", "a")]
    assert len(set(ids)) == len(ids)


def test_derived_ids_sort_beside_their_parent() -> None:
    """The time part is the parent's; where the parent is no ULID, there is none."""
    assert derive(PARENT, "a")[:10] == PARENT[:10]
    assert derive("command-1", "a")[:10] == "0" * 10
    assert derive(PARENT.upper(), "a")[:10] == "0" * 10


def test_fresh_ids_are_ids_and_sort_by_time() -> None:
    ids = [new_id() for _ in range(100)]
    assert len(set(ids)) == 100
    assert all(len(each) == 26 and is_token(each) for each in ids)
    assert [each[:10] for each in ids] == sorted(each[:10] for each in ids)
    assert derive(ids[0], "a")[:10] == ids[0][:10]


@pytest.mark.parametrize("text", ["a", "vm-000001", PARENT, "0", "x" * 64, "-"])
def test_tokens(text: str) -> None:
    assert is_token(text)


@pytest.mark.parametrize("text", ["", "a.b", "a b", "*", ">", "A", "x" * 65, "é", "a\n", "a/b", "\0", "½", "_"])
def test_what_may_not_stand_in_a_subject(text: str) -> None:
    """Dots, blanks and wildcards would mean something to NATS."""
    assert not is_token(text)
