"""Bodies say what they are first, and those who read through a port do not notice."""

import msgspec
import pytest

from shared.jetstream.answers import typed, untyped
from shared.jetstream.timers import timer_body, timer_data


@pytest.mark.parametrize("body", [b'{"seq":1,"lag":{"type":"x"}}', b"{}", b'[{"alert":"a"}]', b"[]", b'[["x",[]]]'])
def test_what_is_typed_comes_back_as_it_was(body: bytes) -> None:
    """Objects and lists; on the way `type` is the first member of a JSON object."""
    told = typed("pool.status", body)

    assert told.startswith(b'{"type":"pool.status"')
    assert isinstance(msgspec.json.decode(told), dict)
    assert untyped("pool.status", told) == body


@pytest.mark.parametrize("body", [b'{"type":"Parked","seq":1}', b"", b"12", b'"text"'])
def test_what_has_a_type_or_is_no_object_stays(body: bytes) -> None:
    """On both ways."""
    assert typed("pool.status", body) == body
    assert untyped("pool.status", body) == body


def test_bodies_of_before_are_read() -> None:
    """From a replica that knew no types; and another's type is not taken for ours."""
    assert untyped("pool.status", b'{"seq":1}') == b'{"seq":1}'
    assert untyped("pool.stat", typed("pool.status", b'{"seq":1}')) == b'{"type":"pool.status","seq":1}'


def test_a_list_can_have_another_name() -> None:
    """As lines have."""
    assert typed("PreviewOutput", b"[1]", "lines") == b'{"type":"PreviewOutput","lines":[1]}'
    assert untyped("PreviewOutput", b'{"type":"PreviewOutput","lines":[1]}', "lines") == b"[1]"


def test_a_timer_begins_with_its_name_and_keeps_its_data() -> None:
    """Stored ones of before have their data alone."""
    assert timer_body("step", {"preview": "p", "attempt": 1}) == b'{"type":"step","preview":"p","attempt":1}'
    assert timer_data(timer_body("step", {"preview": "p"})) == {"preview": "p"}
    assert timer_data(b'{"preview":"p"}') == {"preview": "p"}
    assert timer_data(b"") == timer_data(None) == {}
