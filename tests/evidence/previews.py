"""The previews of a run: a few at a time, each stopped once it has ended."""

import asyncio
from collections import Counter
from collections.abc import Sequence

from tests.evidence.cases import Case
from tests.live.client import Client

AT_ONCE = 4
ENDED_WITHIN_S = 240.0


class Previews:
    """`made`: the failures that were made on purpose, by code; `problems`: what did not end as it was meant to."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.asked = 0
        self.ready_ones = 0
        self.made = Counter[str]()
        self.problems: list[str] = []

    async def all(self, cases: Sequence[Case]) -> None:
        """Each in its turn."""
        waiting = iter(cases)

        async def work() -> None:
            for case in waiting:
                await self.stop(await self.ready(case))

        await asyncio.gather(*(work() for _ in range(AT_ONCE)))

    async def ready(self, case: Case) -> str:
        """One preview, followed to its end; gives its id."""
        self.asked += 1
        preview_id = await self._client.request_preview(await self._client.project(case.files, "evidence"))
        view = await self._client.ended(preview_id, timeout_s=ENDED_WITHIN_S)
        found = view["error"]["code"] if view["status"] == "failed" else view["status"]
        if found != case.ends:
            self.problems.append(f"previews: {preview_id} ({case.name}) is {found}, not {case.ends}: {view['error']}")
        if case.code:
            self.made[case.code] += 1
        self.ready_ones += view["status"] in ("ready", "ready_with_errors")
        return preview_id

    async def stop(self, preview_id: str) -> None:
        """Its VM makes room."""
        await self._client.stop(preview_id)
