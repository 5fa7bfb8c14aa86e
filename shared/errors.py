"""Errors that a person may meet: a stable code, what happened and why, what to do. Never a secret, never a traceback."""

from typing import Any

import msgspec

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that are no such JSON: the second for texts that are no UTF-8, the third for nesting that is
deeper than Python's stack."""


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """An error as it travels: the body of an RFC 9457 answer and of a command's refusal."""

    type: str = "about:blank"
    code: str
    title: str
    detail: str = ""
    hint: str = ""
    status: int = 500
    retry_after_s: float | None = None


class DrapeError(Exception):
    """Base of every error with a code. `status` is the HTTP status it maps to."""

    status = 500

    def __init__(
        self, code: str, message: str, hint: str = "", *, status: int | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.status = status if status is not None else type(self).status
        self.retry_after_s = retry_after_s

    def problem(self) -> Problem:
        """The error as data, safe to show."""
        return Problem(
            code=self.code,
            title=self.code.replace("_", " ").capitalize(),
            detail=self.message,
            hint=self.hint,
            status=self.status,
            retry_after_s=self.retry_after_s,
        )


class Refused(DrapeError):
    """A decision that says no; asking again with the same words will not help."""

    status = 409


class NotFound(Refused):
    """The id is unknown, or belongs to another owner (which must look the same)."""

    status = 404


class Invalid(Refused):
    """The request itself is wrong."""

    status = 400


class Unavailable(DrapeError):
    """Something that we need does not answer now; asking again later helps."""

    status = 503

    def __init__(self, code: str, message: str, hint: str = "", *, retry_after_s: float = 1.0) -> None:
        super().__init__(code, message, hint, status=503, retry_after_s=retry_after_s)


def from_problem(problem: Problem) -> DrapeError:
    """The error that a problem describes, so that it can be raised on this side of a wire."""
    if problem.status == 503:
        retry_after_s = 1.0 if problem.retry_after_s is None else problem.retry_after_s
        return Unavailable(problem.code, problem.detail, problem.hint, retry_after_s=retry_after_s)
    kinds: dict[int, type[DrapeError]] = {404: NotFound, 400: Invalid}
    kind = kinds.get(problem.status, Refused if problem.status < 500 else DrapeError)
    return kind(problem.code, problem.detail, problem.hint, status=problem.status, retry_after_s=problem.retry_after_s)


def internal(error: BaseException) -> Problem:
    """What the other side learns of an error that we did not foresee: its kind, no more."""
    return Problem(
        code="internal_error",
        title="Internal error",
        detail=f"Something failed inside Drape ({type(error).__name__}); the service's log has the details.",
        status=500,
    )


def problem_dict(problem: Problem) -> dict[str, Any]:
    """The members of the JSON body, without the empty ones."""
    return {key: value for key, value in msgspec.to_builtins(problem).items() if value not in ("", None)}
