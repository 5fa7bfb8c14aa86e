"""`python -m tests.shared.golden`: writes the golden files that are missing. One that is there is never changed: it is
what a log holds."""

import sys
from pathlib import Path

import msgspec

from shared.codec import Meta, encode
from shared.events import Event
from tests.shared.examples import EXAMPLES

FOLDER = Path(__file__).parent
META = Meta(
    id="00000000000jdt0dwt3t1mvqbr",
    at=1795479220.5,
    rev=16,
    correlation_id="01m85ea33eaz0eb705bndx9q4g",
    causation_id="00000000009xe7asyxhm3ak296",
    actor="orchestrator/orchestrator-0",
)


def path_of(event: Event) -> Path:
    """The file of the version that is written now."""
    return FOLDER / f"{type(event).__name__}.v{event.schema_version}.json"


def text_of(event: Event) -> bytes:
    """The event as the log holds it, spread over lines for people."""
    return msgspec.json.format(encode(event, META), indent=1) + b"\n"


def main() -> int:
    """Write what is missing, and say what."""
    for event in EXAMPLES.values():
        path = path_of(event)
        if not path.exists():
            path.write_bytes(text_of(event))
            print(f"wrote {path.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
