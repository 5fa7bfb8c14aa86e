"""How a command's cause travels: as headers, the same on every wire."""

from collections.abc import Mapping

from shared.ports import Cause

CORRELATION, CAUSATION, ACTOR, TRACEPARENT = (
    "Drape-Correlation-Id",
    "Drape-Causation-Id",
    "Drape-Actor",
    "traceparent",
)
AFTER_SEQ = "Drape-After-Seq"
"""The log's sequence that the sender knew: the receiver decides once it has folded as much."""
REPEATED = "Drape-Repeated"
"""Sent again after silence: another replica may have begun, so the receiver first folds all that the log holds."""


WORD_CHARS_MAX = 256
"""Of an id, an actor or a trace: none of ours comes near."""


def _word(text: str) -> str:
    return text if len(text) <= WORD_CHARS_MAX and text.isascii() and text.isprintable() else ""


def headers_of(cause: Cause) -> dict[str, str]:
    """Only what is there."""
    headers = {
        CORRELATION: cause.correlation_id,
        CAUSATION: cause.causation_id,
        ACTOR: cause.actor,
        TRACEPARENT: cause.traceparent,
        AFTER_SEQ: str(cause.after_seq) if cause.after_seq else "",
        REPEATED: "1" if cause.repeated else "",
    }
    return {name: value for name, value in headers.items() if value}


def cause_of(headers: Mapping[str, str]) -> Cause:
    """What the sender said; a sequence or a word that is none counts as none, for both are stored and sent on."""
    after_seq = headers.get(AFTER_SEQ, "")
    return Cause(
        correlation_id=_word(headers.get(CORRELATION, "")),
        causation_id=_word(headers.get(CAUSATION, "")),
        actor=_word(headers.get(ACTOR, "")),
        traceparent=_word(headers.get(TRACEPARENT, "")),
        after_seq=int(after_seq) if after_seq.isdecimal() and len(after_seq) < 19 else 0,
        repeated=bool(headers.get(REPEATED)),
    )
