"""A project's variables: sealed so that only this platform can read them, and only for this project."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import Invalid
from shared.project_env import BYTES_MAX, NAMES_MAX, check, seal, unseal

SECRET = "0" * 64
VALUES = st.dictionaries(st.text(min_size=1, max_size=20), st.text(max_size=50), max_size=10)


@given(VALUES)
def test_what_was_sealed_is_read_again(values: dict[str, str]) -> None:
    assert unseal(SECRET, "p1", seal(SECRET, "p1", values)) == values


def test_no_value_can_be_seen_and_no_two_seals_are_alike() -> None:
    values = {"TOKEN": "sesame-open"}
    first, second = seal(SECRET, "p1", values), seal(SECRET, "p1", values)
    assert b"sesame" not in first
    assert b"TOKEN" not in first
    assert first != second


@pytest.mark.parametrize(
    ("secret", "project", "damage"),
    [("1" * 64, "p1", b""), (SECRET, "p2", b""), (SECRET, "p1", b"x"), (SECRET, "p1", None)],
    ids=["another secret", "another project", "damaged", "cut"],
)
def test_whatever_does_not_fit_is_refused(secret: str, project: str, damage: bytes | None) -> None:
    sealed = seal(SECRET, "p1", {"A": "b"})
    sealed = sealed[:5] if damage is None else sealed + damage
    with pytest.raises(Invalid) as caught:
        unseal(secret, project, sealed)
    assert caught.value.code == "env_unreadable"


@pytest.mark.parametrize(
    "values",
    [{"1A": "x"}, {"A B": "x"}, {"": "x"}, {"PATH": "x"}, {"PORT": "1"}, {"A": "se\0cret"}],
)
def test_a_bad_variable_is_refused_without_its_value(values: dict[str, str]) -> None:
    with pytest.raises(Invalid) as caught:
        check(values)
    assert caught.value.code == "bad_variable"
    assert "cret" not in caught.value.message


@pytest.mark.parametrize("values", [{f"A{n}": "" for n in range(NAMES_MAX + 1)}, {"A": "x" * BYTES_MAX}])
def test_there_is_a_limit(values: dict[str, str]) -> None:
    with pytest.raises(Invalid) as caught:
        check(values)
    assert caught.value.code == "too_many_variables"
