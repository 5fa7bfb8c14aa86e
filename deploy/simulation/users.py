"""Users: each asks for previews of its projects, edits, restarts and stops them, several things at once, and notes what it
was told had been done."""

import asyncio
from collections.abc import Callable
from random import Random
from typing import Any, TypeVar

import msgspec

from deploy.simulation.client import Client
from deploy.simulation.files import STATIC, VITE, store_version
from shared.commands import (
    Command,
    CreateProject,
    DeleteProject,
    PreviewReply,
    ProjectReply,
    Reply,
    RequestPreview,
    RestartPreview,
    ResumePreview,
    SetProjectResidents,
    StopPreview,
)
from shared.errors import DrapeError, Refused, Unavailable
from shared.ports import Bus, Cause
from shared.project_files import Manifest
from shared.ulids import new_id

R = TypeVar("R", bound=Reply)
PATIENCE_S = 60.0
RETRY_S = 0.5
PAUSE_S = 3.0
PROJECTS_MAX = 3
MEMORY_MB = (0, 0, 0, 512, 2048, 4096)
"""What previews ask for, some of it more than there is."""


class Acknowledged(msgspec.Struct, frozen=True):
    """What a user was told had been done. `since`: the log's sequence when it was asked for."""

    command: Command
    reply: Reply
    since: int


class Project:
    """A project as its user knows it."""

    def __init__(self, project_id: str) -> None:
        self.project_id = project_id
        self.manifest = Manifest(files_version=0, files={})
        self.previews: list[str] = []
        self.deleted = False


class User:
    """One owner. `told`: everything that was acknowledged; `client`: its browser."""

    def __init__(
        self,
        owner: str,
        bus: Bus,
        client: Client,
        random: Random,
        now: Callable[[], float],
        note: Callable[[str], None],
        last_seq: Callable[[], int],
    ) -> None:
        self.owner = owner
        self.client = client
        self.told: list[Acknowledged] = []
        self.projects: list[Project] = []
        self._bus = bus
        self._random = random
        self._now = now
        self._note = note
        self._seq = 0
        self._last_seq = last_seq

    async def live(self, until_s: float) -> None:
        """Do something now and then, until then."""
        await self.client.connect()
        while self._now() < until_s:
            await asyncio.sleep(PAUSE_S * self._random.random() ** 2)
            try:
                await self._do_something()
            except (DrapeError, AssertionError) as error:
                # Refused, or out of patience: a user lives with that. What was acknowledged is noted.
                self._note(f"{self.owner} gives up: {error}")

    async def end(self) -> None:
        """Stop all that it has."""
        for project in self.projects:
            for preview_id in project.previews:
                await self._tolerant(StopPreview(preview_id=preview_id), PreviewReply)
            await self._tolerant(DeleteProject(project_id=project.project_id, owner=self.owner), Reply)

    async def _do_something(self) -> None:
        if not self.projects or (len(self.projects) < PROJECTS_MAX and self._random.random() < 0.15):
            await self._new_project()
            return
        project = self._random.choice(self.projects)
        if project.deleted:
            return
        chance = self._random.random()
        if not project.previews or chance < 0.35:
            await self._request(project)
        elif chance < 0.45:  # impatient: twice at once, and once more with the same id
            command = RequestPreview(id=new_id(), project_id=project.project_id, owner=self.owner)
            await asyncio.gather(
                self._request(project), self._request(project, command), self._request(project, command)
            )
        elif chance < 0.6:
            await self._edit(project)
        elif chance < 0.72:
            await self._tolerant(RestartPreview(preview_id=project.previews[-1]), PreviewReply)
        elif chance < 0.87:
            await self._tolerant(StopPreview(preview_id=project.previews[-1]), PreviewReply)
        elif chance < 0.93:
            await self._tolerant(ResumePreview(preview_id=project.previews[-1]), PreviewReply)
        elif chance < 0.97:
            count = self._random.choice((0, 1))
            residents = SetProjectResidents(project_id=project.project_id, owner=self.owner, count=count)
            await self._tolerant(residents, Reply)
        else:
            await self._tolerant(DeleteProject(project_id=project.project_id, owner=self.owner), Reply)
            project.deleted = True

    async def _new_project(self) -> None:
        reply = await self.send(CreateProject(owner=self.owner, name="project"), ProjectReply)
        project = Project(reply.project_id)
        self.projects.append(project)
        await self._change(project, VITE if self._random.random() < 0.7 else STATIC)

    async def _edit(self, project: Project) -> None:
        text = str(self._random.random()).encode()
        path = "vite.config.js" if self._random.random() < 0.2 else "index.html"
        await self._change(project, {path: text})

    async def _change(self, project: Project, files: dict[str, bytes]) -> None:
        until = self._now() + PATIENCE_S
        while True:
            try:
                args = (self.owner, project.project_id, project.manifest, files)
                manifest, record = await store_version(self._bus.objects, *args)
                break
            except Unavailable:
                if self._now() > until:
                    raise
                await asyncio.sleep(RETRY_S)
        await self.send(record, ProjectReply)
        project.manifest = manifest

    async def _request(self, project: Project, command: RequestPreview | None = None) -> None:
        memory_mb = self._random.choice(MEMORY_MB)
        command = command or RequestPreview(
            id=new_id(), project_id=project.project_id, owner=self.owner, memory_mb=memory_mb
        )
        reply = await self.send(command, PreviewReply)
        if reply.preview_id not in project.previews:
            project.previews.append(reply.preview_id)

    async def _tolerant(self, command: Command, kind: type[Any]) -> None:
        try:
            await self.send(command, kind)
        except Refused as refusal:
            self._note(f"{self.owner} is refused: {type(command).__name__} {refusal.code}")

    async def send(self, command: Command, kind: type[R]) -> R:
        """The same command again while nobody answers; what was answered is noted."""
        command = msgspec.structs.replace(command, id=command.id or new_id())
        until = self._now() + PATIENCE_S
        since = self._last_seq()
        cause = Cause(actor=self.owner, after_seq=self._seq)
        while True:
            try:
                body = await self._bus.commands.send(command, cause)
            except Unavailable:
                if self._now() > until:
                    raise
                cause = msgspec.structs.replace(cause, repeated=True)
                await asyncio.sleep(RETRY_S)
            else:
                reply = msgspec.json.decode(body, type=kind)
                self._seq = max(self._seq, reply.seq)
                self.told.append(Acknowledged(command, reply, since))
                return reply
