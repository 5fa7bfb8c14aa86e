"""Errors keep their code, words and status on their way through a wire, and tell no secret."""

import msgspec
import pytest

from shared.errors import (
    DrapeError,
    Invalid,
    NotFound,
    Problem,
    Refused,
    Unavailable,
    from_problem,
    internal,
    problem_dict,
)

ERRORS: list[tuple[DrapeError, int]] = [
    (DrapeError("broken", "It broke.", "Mend it."), 500),
    (Refused("no", "No.", "Ask otherwise."), 409),
    (Refused("too_many", "Too many.", status=429), 429),
    (Refused("token_required", "Who?", status=401), 401),
    (NotFound("not_found", "There is none."), 404),
    (Invalid("bad", "It is wrong.", "Right it."), 400),
    (Unavailable("away", "It is away.", "Wait.", retry_after_s=3.5), 503),
    (Unavailable("away", "It is away.", retry_after_s=0.0), 503),
]


@pytest.mark.parametrize(("error", "status"), ERRORS)
def test_errors_travel(error: DrapeError, status: int) -> None:
    """To JSON and back: the same kind with the same members."""
    problem = msgspec.json.decode(msgspec.json.encode(error.problem()), type=Problem)
    again = from_problem(problem)
    assert error.status == status
    assert type(again) is type(error)
    assert (again.code, again.message, again.hint, again.status, again.retry_after_s) == (
        error.code,
        error.message,
        error.hint,
        status,
        error.retry_after_s,
    )
    assert str(again) == str(error) == error.message


def test_an_unavailable_without_a_time_says_soon() -> None:
    assert from_problem(Problem(code="away", title="Away", status=503)).retry_after_s == 1.0


@pytest.mark.parametrize(
    ("status", "kind"), [(403, Refused), (413, Refused), (499, Refused), (500, DrapeError), (502, DrapeError)]
)
def test_the_status_says_whether_asking_again_helps(status: int, kind: type[DrapeError]) -> None:
    """Below 500 it is the request, from 500 on it is us."""
    assert type(from_problem(Problem(code="c", title="C", status=status))) is kind


def test_a_title_is_readable() -> None:
    assert Refused("project_not_found", "There is none.").problem().title == "Project not found"


def test_empty_members_are_left_out() -> None:
    """RFC 9457: what is not known is not there; `retry_after_s` 0 is known."""
    full = Unavailable("away", "Away.", "Wait.", retry_after_s=0.0).problem()
    assert set(problem_dict(full)) == {"code", "title", "detail", "hint", "status", "type", "retry_after_s"}
    assert set(problem_dict(Refused("no", "No.").problem())) == {"code", "title", "detail", "status", "type"}


def test_an_unforeseen_error_shows_its_kind_and_no_more() -> None:
    """Its text may hold anything: an address with a password in it."""
    problem = internal(ConnectionError("nats://user:secret@host refused"))
    assert (problem.code, problem.status) == ("internal_error", 500)
    assert "ConnectionError" in problem.detail
    assert "secret" not in str(problem)
