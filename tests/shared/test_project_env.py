"""A project's variables: only what an environment can hold goes in, and only the project's own key opens it again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import Invalid
from shared.project_env import (
    VARIABLES_BYTES_MAX,
    VARIABLES_MAX,
    check_variables,
    object_name,
    seal,
    unseal,
)

SECRET, PROJECT = "5e" * 32, "01jd0000000000000000000prj"
VALUES = {"API_KEY": "sesame-open", "EMPTY": "", "LINES": "a\nb\r\n", "TEXT": 'größe 🚀 = "x" {port}'}


def refusal(values: dict[str, str]) -> Invalid:
    with pytest.raises(Invalid) as refused:
        check_variables(values)
    return refused.value


def test_what_was_sealed_comes_out() -> None:
    """Any text, byte by byte."""
    assert unseal(SECRET, PROJECT, seal(SECRET, PROJECT, VALUES)) == VALUES
    assert unseal(SECRET, PROJECT, seal(SECRET, PROJECT, {})) == {}


@given(st.dictionaries(st.text(min_size=1, max_size=20), st.text(max_size=50), max_size=10))
def test_any_text_comes_out_again(values: dict[str, str]) -> None:
    assert unseal(SECRET, PROJECT, seal(SECRET, PROJECT, values)) == values


def test_nothing_of_it_can_be_read() -> None:
    """Neither values nor names; and the same variables look different each time."""
    one, two = seal(SECRET, PROJECT, VALUES), seal(SECRET, PROJECT, VALUES)
    assert one != two
    assert not any(text.encode() in one for text in ("sesame-open", "API_KEY"))
    nonce = b"n" * 12
    assert seal(SECRET, PROJECT, VALUES, nonce) == seal(SECRET, PROJECT, VALUES, nonce)


@pytest.mark.parametrize("place", [0, 1, 12, 13, 30, -1])
def test_changed_bytes_are_refused(place: int) -> None:
    """Wherever: format, nonce, content or its proof."""
    blob = bytearray(seal(SECRET, PROJECT, VALUES))
    blob[place] ^= 1
    with pytest.raises(Invalid) as refused:
        unseal(SECRET, PROJECT, bytes(blob))
    assert (refused.value.code, bool(refused.value.hint)) == ("env_unreadable", True)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize(("secret", "project"), [("6f" * 32, PROJECT), (SECRET, PROJECT[:-1]), (SECRET, "other")])
def test_another_key_opens_nothing(secret: str, project: str) -> None:
    """One project's variables under another's name, or another installation's."""
    with pytest.raises(Invalid, match="can't be decrypted"):
        unseal(secret, project, seal(SECRET, PROJECT, VALUES))


@pytest.mark.parametrize("blob", [b"", b"\x01", b"\x01" + b"x" * 12, b"\x02" + b"x" * 60, b"{}"])
def test_what_was_never_sealed_is_refused(blob: bytes) -> None:
    with pytest.raises(Invalid) as refused:
        unseal(SECRET, PROJECT, blob)
    assert refused.value.code == "env_unreadable"


@pytest.mark.parametrize("name", ["A", "_", "a_B9", "NODE_OPTIONS", "NODE_ENV", "NPM_TOKEN", "x" * 200])
def test_good_names(name: str) -> None:
    check_variables({name: "value"})


@pytest.mark.parametrize("name", ["", "9A", "A-B", "A B", "A=B", "A\n", "Ä", "A.B", "x" * 201, "A\0"])
def test_names_that_no_shell_could_set_are_refused(name: str) -> None:
    assert refusal({name: "sesame"}).code == "bad_env_name"


@pytest.mark.parametrize("name", ["PORT", "HOST", "PATH", "HOME", "TMPDIR", "DRAPE_SECRET", "DRAPE_X"])
def test_drapes_own_names_are_refused(name: str) -> None:
    """A dev server that listened elsewhere would never be found."""
    error = refusal({name: "sesame"})
    assert (error.code, name in error.message) == ("env_name_refused", True)


@pytest.mark.parametrize("value", ["sesame\0", "sesame\udcff"])
def test_values_that_no_environment_holds_are_refused_unsaid(value: str) -> None:
    """The error names the variable, not what is in it."""
    error = refusal({"KEY": value})
    assert (error.code, "KEY" in error.message) == ("bad_env_value", True)
    assert "sesame" not in error.message + error.hint + repr(error.__cause__)


def test_there_is_a_limit_to_number_and_size() -> None:
    """Exactly at it they are taken."""
    check_variables({f"K{number}": "" for number in range(VARIABLES_MAX)})
    assert refusal({f"K{number}": "" for number in range(VARIABLES_MAX + 1)}).code == "too_many_variables"
    check_variables({"K": "x" * (VARIABLES_BYTES_MAX - 1)})
    assert refusal({"K": "x" * VARIABLES_BYTES_MAX}).code == "env_too_large"
    assert refusal({"K": "ü" * (VARIABLES_BYTES_MAX // 2)}).code == "env_too_large"


def test_objects_are_the_projects_own() -> None:
    assert object_name("alice", "p1", "s") == "alice/p1/env/s"
