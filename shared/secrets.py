"""Secrets that are derived, so that none is ever stored or sent about."""

import hashlib
import hmac

from shared.ids import PreviewId, VmId


def agent_token(secret: str, vm_id: VmId) -> str:
    """The token of one VM's agent, useless for any other."""
    return _mac(secret, f"agent/{vm_id}")


def probe_token(secret: str, preview_id: PreviewId) -> str:
    """Lets the orchestrator's readiness probe through the gateway before the preview is open to browsers."""
    return _mac(secret, f"probe/{preview_id}")


def probed_token(secret: str, preview_id: PreviewId) -> str:
    """With this the gateway says that an answer to a probe is the dev server's own, passed on by it."""
    return _mac(secret, f"probed/{preview_id}")


def preview_key(secret: str) -> bytes:
    """With this the ids of previews are made, so that their hosts can't be guessed."""
    return bytes.fromhex(_mac(secret, "preview-ids"))


def link_mac(secret: str, preview_id: PreviewId, expires_at: int) -> str:
    """Signs a link that opens a private preview until `expires_at` (seconds, UTC)."""
    return _mac(secret, f"link/{preview_id}/{expires_at}")


def pass_mac(secret: str, preview_id: PreviewId, expires_at: int) -> str:
    """Signs the cookie that such a link is exchanged for."""
    return _mac(secret, f"pass/{preview_id}/{expires_at}")


def matches(given: str, expected: str) -> bool:
    """Comparison that takes the same time wherever the two differ."""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), expected.encode())


def _mac(secret: str, text: str) -> str:
    return hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()
