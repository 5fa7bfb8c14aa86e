"""Whose certificates a NATS server may show: an authority of one's own, beside those that the rest of the process believes."""

import os
import ssl
from collections.abc import Mapping
from pathlib import Path

from shared.errors import Invalid

CA_FILE = "DRAPE_NATS_CA_FILE"


def tls_from_environment(env: Mapping[str, str] = os.environ) -> ssl.SSLContext | None:
    """What to check NATS's certificates with; None where `DRAPE_NATS_CA_FILE` names nothing: the usual authorities, for
    servers whose address begins with `tls://`. Raises `Invalid`."""
    named = env.get(CA_FILE, "")
    if not named:
        return None
    path = Path(named).expanduser()
    try:
        return ssl.create_default_context(cafile=path)
    except OSError as error:  # `ssl.SSLError` is one
        raise Invalid(
            "nats_ca_unreadable",
            f"{CA_FILE} names {named}, which holds no certificate that can be read ({type(error).__name__}).",
            "It is a PEM file with the certificate of the authority that has signed the NATS servers' own.",
        ) from error
