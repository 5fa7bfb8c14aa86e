"""A project's secret values do not get out through what its programs print."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.orchestrator.rules.masking import HIDDEN_CHARS_MIN, masker


def test_values_are_hidden_wherever_they_stand() -> None:
    mask = masker(["npm_abcdef123", "s3cret!"])
    assert mask("token=npm_abcdef123 and s3cret!s3cret!") == "token=*** and ******"


def test_a_value_that_begins_with_another_is_hidden_whole() -> None:
    assert masker(["secret", "secret-and-more"])("secret-and-more") == "***"


def test_each_line_of_a_value_is_hidden() -> None:
    """Keys come in several lines, and output is told line by line."""
    mask = masker(["-----BEGIN KEY-----\nMIIEvQIBADAN\n-----END KEY-----"])
    assert mask("read MIIEvQIBADAN") == "read ***"


def test_short_values_are_no_secrets() -> None:
    assert masker(["true", "3000", ""])("true on 3000") == "true on 3000"


@given(st.lists(st.text(min_size=HIDDEN_CHARS_MIN, max_size=20)), st.text(), st.text())
def test_no_long_value_survives(values: list[str], before: str, after: str) -> None:
    """Whatever the values are made of: patterns are text here."""
    mask = masker(values)
    for value in values:
        for line in value.splitlines():
            if len(line) >= HIDDEN_CHARS_MIN and line not in "***":
                assert line not in mask(f"{before} {line} {after}").replace("***", "")


def test_a_value_is_hidden_as_json_and_addresses_write_it() -> None:
    """How objects and links are ordinarily printed."""
    mask = masker(['qu"ote\\back&=pw9'])
    assert mask('{"q":"qu\\"ote\\\\back&=pw9"}') == '{"q":"***"}'
    assert mask("/login?key=qu%22ote%5Cback%26%3Dpw9&x=1") == "/login?key=***&x=1"


@pytest.mark.parametrize(
    ("printed", "shown"),
    [
        ("404 http://user:t0ken@registry.test/a.tgz", "404 http://***@registry.test/a.tgz"),
        ("git+https://ghp_t0ken@github.com/a/b", "git+https://***@github.com/a/b"),
        ("'secretly@http://u:p@h/' and https://x:y@z", "'secretly@http://***@h/' and https://***@z"),
        ("ssh://git@github.com/a/b", "ssh://git@github.com/a/b"),
        ("http://localhost:3000/@vite/client", "http://localhost:3000/@vite/client"),
        ("see http://localhost:3000 or mail a@b.test", "see http://localhost:3000 or mail a@b.test"),
    ],
)
def test_what_opens_an_address_is_hidden(printed: str, shown: str) -> None:
    """Users, passwords and tokens before the host, with variables or without; nothing else of an address."""
    assert masker([])(printed) == shown
    assert masker(["something else"])(printed) == shown
