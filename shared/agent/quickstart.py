"""Imports the HTTP library in two thirds of the time. For short start-ups only; nothing here dials TLS."""

import gc
import os

_TLS_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR")


def import_aiohttp() -> None:
    """Imports aiohttp without its reading the machine's certificates.

    It builds a verifying TLS context when it is imported, a third of a start. What runs in a VM dials nothing but plain
    loopback addresses. The variables are put back at once, for the processes started later. Call it before any thread.
    """
    kept = {name: os.environ.get(name) for name in _TLS_VARIABLES}
    os.environ.update(dict.fromkeys(_TLS_VARIABLES, os.devnull))
    gc.disable()
    try:
        import aiohttp.web  # noqa: F401 - the point of this function
    finally:
        gc.enable()
        for name, value in kept.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
