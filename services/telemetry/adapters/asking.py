"""`drape.query.telemetry.projections` and `.rebuild`: how the projections stand, and to have them made anew."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated

import msgspec

from services.telemetry.adapters.postgres import OUTAGES
from services.telemetry.adapters.rebuild import Rebuilder, view
from shared.errors import UNREADABLE, Invalid, NotFound, Unavailable

NAMES_MAX = 50


class RebuildQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`names`: which projections; none: all."""

    names: Annotated[list[str], msgspec.Meta(max_length=NAMES_MAX)] = []


_rebuild = msgspec.json.Decoder(RebuildQuery)


class ProjectionQueries:
    """Any replica answers: all that it needs stands in PostgreSQL. `last_seq` gives the log's."""

    def __init__(self, rebuilders: Mapping[str, Rebuilder], last_seq: Callable[[], Awaitable[int]]) -> None:
        self._rebuilders = rebuilders
        self._last_seq = last_seq

    async def projections(self, _body: bytes, _headers: object) -> bytes:
        """JSON `{"last_seq": …, "projections": {name: {"serving", "building", "retired"}}}`. Raises `Unavailable`."""
        last = await self._last_seq()
        try:
            found = {name: view(await each.generations(), last) for name, each in self._rebuilders.items()}
        except OUTAGES as error:
            raise _unavailable() from error
        return msgspec.json.encode({"last_seq": last, "projections": found})

    async def rebuild(self, body: bytes, _headers: object) -> bytes:
        """JSON of `RebuildQuery` -> `{"projections": {name: {"begun": …, "log_id": …}}}`; `begun` false: it was under way,
        `log_id` empty: nothing is projected yet. Raises `Invalid`, `NotFound` (`unknown_projection`), `Unavailable`."""
        try:
            names = _rebuild.decode(body or b"{}").names
        except UNREADABLE as error:
            raise Invalid("bad_query", f"The query is not valid: {error}.", 'Ask {"names": ["previews"]}.') from error
        known = sorted(self._rebuilders)
        unknown = sorted({name for name in names if name not in self._rebuilders})
        if unknown:
            raise NotFound(
                "unknown_projection", f"There is no projection {unknown[0][:40]!r}.", f"There are: {', '.join(known)}."
            )
        try:
            return msgspec.json.encode({"projections": {name: await self._begin(name) for name in names or known}})
        except OUTAGES as error:
            raise _unavailable() from error

    async def _begin(self, name: str) -> Mapping[str, object]:
        rebuilder = self._rebuilders[name]
        begun = await rebuilder.begin()
        building = [each.log_id for each in await rebuilder.generations() if each.state == "building"]
        return {"begun": begun, "log_id": building[0] if building else ""}


def _unavailable() -> Unavailable:
    return Unavailable(
        "projections_unavailable",
        "The projections cannot be looked at: PostgreSQL does not answer.",
        "Previews go on without it; ask again when it is back.",
        retry_after_s=2,
    )
