"""What telemetry needs of the outside beside what every service does, as Protocols."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from services.telemetry.notices import Notice

Figure = Callable[[], Awaitable[float | None]]
"""A figure; None: nobody knows it now."""


class Undelivered(Exception):
    """A channel has not taken a notice. `code` says why, in a word that may be stored: no address, no secret.
    `retry_after_s`: how long the receiver wants to be left alone."""

    def __init__(self, code: str, retry_after_s: float = 0.0) -> None:
        super().__init__(code)
        self.code = code
        self.retry_after_s = retry_after_s


class Channel(Protocol):
    """One way to tell somebody."""

    @property
    def name(self) -> str:
        """`webhook`, `slack` or `email`."""

    async def send(self, notice: Notice) -> None:
        """Returns once the receiver has it. Raises `Undelivered` within the time-out."""

    async def close(self) -> None: ...
