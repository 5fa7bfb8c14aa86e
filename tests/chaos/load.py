"""Users: each makes a project whose page holds a token of its own, previews it, looks at it, changes it, stops it; again
and again. What is refused or breaks on the way is tried again for a while, and then given up: only answers count."""

import asyncio
import random
import secrets
from collections.abc import Awaitable, Callable

import aiohttp

from tests.chaos.ledger import Ledger
from tests.chaos.pacing import lasting, until
from tests.live.client import TAR, Answer, Client, node_project, tar_of

SERVED = ("ready", "ready_with_errors", "suspended")
ENDED = ("failed", "stopped")
PREVIEW_S = 150.0
TRY_S = 20.0
PAUSE_S = 0.7
EDITS = 0.5
"""Of the previews that get ready."""
SERVER = """
import http from 'node:http'
import fs from 'node:fs'
http.createServer((request, response) => {
  response.setHeader('content-type', 'text/html')
  response.end('<title>' + fs.readFileSync('token.txt') + '</title>')
}).listen(process.env.PORT, '127.0.0.1')
"""
TROUBLES = (aiohttp.ClientError, TimeoutError, OSError, AssertionError)
"""What may happen to anybody whose platform is being broken; the client's own assertions are about statuses."""


class User:
    """One of many. `gateways` tells where they are by now; `over`: the load has ended."""

    def __init__(
        self,
        number: int,
        seed: int,
        gateways: Callable[[], list[str]],
        session: aiohttp.ClientSession,
        ledger: Ledger,
        over: asyncio.Event,
    ) -> None:
        self._name = f"user-{number}"
        self._choose = random.Random(f"{seed}/{number}")
        self._gateways = gateways
        self._session = session
        self._ledger = ledger
        self._over = over

    async def work(self) -> None:
        """Until the load is over."""
        while not self._over.is_set():
            try:
                await self._story()
            except TROUBLES as error:
                self._ledger.note(self._ledger.refused, type(error).__name__)
                await lasting(PAUSE_S)

    def _client(self) -> Client:
        gateways = self._gateways()
        return Client(self._choose.choice(gateways), self._session)

    async def _call(self, work: Callable[[Client], Awaitable[Answer]], *expected: int) -> Answer | None:
        """The first answer that is expected, from whichever gateway; None where none came within `TRY_S`."""
        answers: list[Answer] = []

        async def tried() -> bool:
            try:
                answer = await work(self._client())
            except TROUBLES as error:
                self._ledger.note(self._ledger.refused, type(error).__name__)
                return self._over.is_set()
            if answer.status not in expected:
                self._ledger.note(self._ledger.refused, str(answer.status))
                return answer.status == 404 or self._over.is_set()
            answers.append(answer)
            return True

        await until(tried, TRY_S)
        return answers[0] if answers else None

    async def _story(self) -> None:
        token, page = secrets.token_hex(12), self._choose.random() < 0.5
        key = {"Idempotency-Key": secrets.token_hex(8)}
        made = await self._call(
            lambda client: client.call("POST", "/api/projects", json={"name": self._name}, headers=key), 201
        )
        if made is None:
            return
        project_id = made.json["project_id"]
        self._ledger.projects.append(project_id)
        self._ledger.tokens[project_id] = [token]
        if not await self._upload(project_id, token, page):
            return
        asked = await self._call(
            lambda client: client.call("POST", "/api/previews", json={"project_id": project_id}), 200, 202
        )
        if asked is None:
            return
        preview_id = asked.json["preview_id"]
        self._ledger.previews.append(preview_id)
        if await self._becomes_ready(preview_id):
            for _ in range(self._choose.randint(1, 4)):
                await self._look(preview_id, project_id)
                await lasting(PAUSE_S)
            if self._choose.random() < EDITS:
                edited = secrets.token_hex(12)
                self._ledger.tokens[project_id].append(edited)
                await self._upload(project_id, edited, page)
                await self._look(preview_id, project_id)
        stopped = await self._call(lambda client: client.call("DELETE", f"/api/previews/{preview_id}"), 200)
        if stopped is not None and stopped.json["status"] in ENDED:
            self._ledger.stops.append(preview_id)

    async def _upload(self, project_id: str, token: str, page: bool) -> bool:
        """All files, over those that are there. `page`: one that is served as it is, else by a program."""
        text = f"<title>{token}</title>"
        files = {"index.html": text} if page else {**node_project(SERVER), "token.txt": token}
        body = tar_of(files)
        stored = await self._call(
            lambda client: client.call("PUT", f"/api/projects/{project_id}/files", data=body, headers=TAR), 200
        )
        if stored is None:
            return False
        self._ledger.versions.append((project_id, stored.json["version"]))
        return True

    async def _becomes_ready(self, preview_id: str) -> bool:
        """Whether it is served, within a time in which everything of it may have been begun anew; counts how it ended."""
        status = ""

        async def ended() -> bool:
            nonlocal status
            try:
                answer = await self._client().call("GET", f"/api/previews/{preview_id}")
            except TROUBLES as error:
                self._ledger.note(self._ledger.refused, type(error).__name__)
                return self._over.is_set()
            if answer.status == 200:
                status = answer.json["status"]
                if status == "failed":
                    self._ledger.note(self._ledger.failed, str((answer.json.get("error") or {}).get("code")))
            return status in (*SERVED, *ENDED) or self._over.is_set()

        await until(ended, PREVIEW_S)
        self._ledger.ready += status in SERVED
        return status in SERVED

    async def _look(self, preview_id: str, project_id: str) -> None:
        """Pages of ours (starting, failed) have a status of their own; a 200 is the project's, and then the right one's,
        as it was before an edit or after it."""
        try:
            answer = await self._client().visit(preview_id)
        except TROUBLES as error:
            self._ledger.note(self._ledger.refused, type(error).__name__)
            return
        if answer.status != 200:
            self._ledger.note(self._ledger.refused, f"page {answer.status}")
            return
        self._ledger.pages += 1
        owners = {
            owner for owner, tokens in self._ledger.tokens.items() if any(token in answer.text for token in tokens)
        }
        if owners != {project_id}:
            self._ledger.wrong_pages.append(f"{preview_id}: {answer.text[:200]!r}")
