"""What is logged of requests that are no HTTP: that there was one, and nothing of what it said."""

import logging

from aiohttp.http_exceptions import HttpProcessingError


def without_their_words(record: logging.LogRecord) -> bool:
    """Log filter. aiohttp logs a parser's complaint with the line that it is about, which may hold a token or a cookie, and
    with a traceback, of which a flood of rubbish would write a flood. It is the client's error: one short line of it."""
    error = record.exc_info[1] if record.exc_info else None
    if not isinstance(error, HttpProcessingError):
        return True
    record.exc_info = None
    record.msg, record.args = "bad_request", ()
    record.levelno, record.levelname = logging.INFO, "INFO"
    record.error = type(error).__name__
    return _http_log_wants_info()


def _http_log_wants_info() -> bool:
    return logging.getLogger("drape.http").isEnabledFor(logging.INFO)
