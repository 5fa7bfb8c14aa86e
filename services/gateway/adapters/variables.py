"""A project's environment variables: checked, sealed and stored; what reaches the log is only where, and their names."""

from collections.abc import Mapping

from services.gateway.state import Project
from shared.commands import SetProjectEnv
from shared.errors import NotFound
from shared.ports import Objects
from shared.project_env import check, seal, unseal
from shared.ulids import new_id


class Variables:
    """The variables of all projects, in the object store."""

    def __init__(self, objects: Objects, secret: str) -> None:
        self._objects = objects
        self._secret = secret

    async def change(self, project: Project, given: Mapping[str, str | None], *, keep: bool) -> SetProjectEnv:
        """Store what the project's variables become; gives the command that makes it count.

        `keep`: the others stay as they are. Raises `Invalid`: `bad_variable`, `too_many_variables`, `env_unreadable`.
        """
        values = await self._present(project) if keep else {}
        values |= {name: value for name, value in given.items() if value is not None}
        for name, value in given.items():
            if value is None:
                values.pop(name, None)
        check(values)
        stored = ""
        if values:
            stored = f"{project.owner}/{project.project_id}/env/{new_id()}"
            await self._objects.put(stored, seal(self._secret, project.project_id, values))
        return SetProjectEnv(
            project_id=project.project_id, owner=project.owner, env=stored, names=tuple(sorted(values))
        )

    async def _present(self, project: Project) -> dict[str, str]:
        if not project.env:
            return {}
        try:
            return unseal(self._secret, project.project_id, await self._objects.get(project.env))
        except NotFound:
            return {}  # replaced meanwhile, by somebody whose change will be the one that is lost
