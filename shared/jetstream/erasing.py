"""Messages whose bytes leave the disk at once: NATS overwrites what is deleted by number, while a purge only forgets it."""

from nats.js.client import JetStreamContext
from nats.js.errors import NotFoundError


async def erase_messages(js: JetStreamContext, stream: str, subject: str) -> int:
    """Overwrite and delete every message of the subject. Gives their number."""
    erased, seq = 0, 1
    while True:
        try:
            message = await js.get_msg(stream, seq=seq, subject=subject, next=True)
        except NotFoundError:
            return erased
        found = message.seq or 0
        try:
            await js.delete_msg(stream, found)
        except NotFoundError:
            seq = found + 1  # its own age or another was quicker
            continue
        erased, seq = erased + 1, found + 1
