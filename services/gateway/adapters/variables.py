"""A project's variables in the object store: encrypted, a new object for each change."""

import logging

from services.gateway.state import Project
from shared.commands import SetProjectEnv
from shared.errors import NotFound, Unavailable
from shared.ports import Objects
from shared.project_env import check_variables, object_name, seal, unseal
from shared.ulids import new_id

log = logging.getLogger("drape.gateway")


class Variables:
    """Keeps them. Values leave this class only into the object store."""

    def __init__(self, objects: Objects, secret: str) -> None:
        self._objects = objects
        self._secret = secret

    async def replace(self, project: Project, values: dict[str, str], base: str | None = None) -> SetProjectEnv:
        """Store these; gives the command that makes them the project's. `base`: the object that they were made from.

        Raises `Invalid` where they are not fit to be kept.
        """
        check_variables(values)
        name = ""
        if values:
            name = object_name(project.owner, project.project_id, new_id())
            await self._objects.put(name, seal(self._secret, project.project_id, values))
        return SetProjectEnv(
            project_id=project.project_id, owner=project.owner, env=name, names=tuple(sorted(values)), base=base
        )

    async def change(self, project: Project, changes: dict[str, str | None]) -> SetProjectEnv:
        """Store the present ones with these set, or removed where they are None."""
        values = await self._present(project)
        for name, value in changes.items():
            if value is None:
                values.pop(name, None)
            else:
                values[name] = value
        return await self.replace(project, values, base=project.env)

    async def drop(self, name: str) -> None:
        """Remove an object that did not become the project's variables."""
        if not name:
            return
        try:
            await self._objects.delete(name)
        except Unavailable as error:
            log.warning("env_left_behind", extra={"object": name, "error": error.message})

    async def _present(self, project: Project) -> dict[str, str]:
        if not project.env:
            return {}
        try:
            sealed = await self._objects.get(project.env)
        except NotFound as error:
            raise Unavailable(
                "env_missing", "The project's variables are not in the object store.", "Set all of them again (PUT)."
            ) from error
        return unseal(self._secret, project.project_id, sealed)
