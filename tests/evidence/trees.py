"""The spans that a collector has received, against the previews of the log: each has one tree, and all of it. Pure."""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from shared.codec import Recorded
from shared.events import FilesSynced, PreviewFailed, PreviewReady, PreviewRequested, VmAcquired
from tests.live.collector import Span, broken

ROOT = "POST /api/previews"
AGENT = "drape-agent"


class Tree(msgspec.Struct, frozen=True, kw_only=True):
    """One preview's. `ended`: `PreviewReady` or the code of `PreviewFailed`; `wrong`: why it is none, or not whole."""

    preview_id: str
    trace: str
    ended: str
    spans: int
    services: tuple[str, ...]
    wrong: tuple[str, ...]


def trees(events: Iterable[Recorded], traces: Mapping[str, Sequence[Span]]) -> list[Tree]:
    """Of every preview that was requested, in the log's order."""
    of_preview: dict[str, list[Recorded]] = {}
    for each in events:
        preview_id = getattr(each.event, "preview_id", None)
        if preview_id:
            of_preview.setdefault(preview_id, []).append(each)
    requested = {
        key: story
        for key, story in of_preview.items()
        if any(isinstance(each.event, PreviewRequested) for each in story)
    }
    own = {key: _trace_of(story, PreviewRequested) for key, story in requested.items()}
    shared = {trace for trace in own.values() if list(own.values()).count(trace) > 1}
    return [_tree(key, story, own[key], traces.get(own[key], ()), shared) for key, story in requested.items()]


def _tree(preview_id: str, story: list[Recorded], trace: str, spans: Sequence[Span], shared: set[str]) -> Tree:
    services = {each.service for each in spans}
    end = next((each for each in story if isinstance(each.event, PreviewReady | PreviewFailed)), None)
    wrong = [] if spans else [f"no span of the trace {trace or '(none)'} was received"]
    if trace in shared:
        wrong.append("another preview has the same trace")
    if spans and (why := broken(spans)):
        wrong.append(why)
    wrong += [f"a parent was not received: {each.service} {each.name}" for each in spans if _is_orphan(each, spans)]
    if sum(each.name == ROOT and not each.parent for each in spans) != 1:
        wrong.append(f"its root is not {ROOT}")
    if end is None:
        wrong.append("it has not ended")
    elif _trace_of([end], type(end.event)) != trace:
        wrong.append(f"its {end.type} is in another trace")
    wrong += [f"{name} has no part in it" for name in sorted(_wanted(story) - services)]
    ended = "" if end is None else end.event.code if isinstance(end.event, PreviewFailed) else end.type
    return Tree(
        preview_id=preview_id,
        trace=trace,
        ended=ended,
        spans=len(spans),
        services=tuple(sorted(services)),
        wrong=tuple(wrong),
    )


def _wanted(story: list[Recorded]) -> set[str]:
    """The services that must have had a part in what has happened."""
    wanted = {"drape-gateway", "drape-orchestrator"}
    if any(isinstance(each.event, VmAcquired) for each in story):
        wanted.add("drape-pool")
    if any(isinstance(each.event, FilesSynced) for each in story):
        wanted.add(AGENT)
    return wanted


def _is_orphan(span: Span, spans: Sequence[Span]) -> bool:
    return bool(span.parent) and span.parent not in {each.id for each in spans}


def _trace_of(story: list[Recorded], kind: type) -> str:
    """Of the first event of this kind: 00-TRACE-SPAN-FLAGS."""
    parts = next((each.meta.traceparent for each in story if isinstance(each.event, kind)), "").split("-")
    return parts[1] if len(parts) > 1 else ""
