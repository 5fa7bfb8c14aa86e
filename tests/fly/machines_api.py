"""The fake Machines API: apps, machines with their states and leases, volumes, and whatever may go wrong with them."""

import asyncio
import contextlib
import re
import ssl
import time
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime
from email.utils import formatdate
from pathlib import Path
from typing import Any
from uuid import uuid4

from aiohttp import web

from services.pool.ports import ProviderError
from tests.fly.edge import Edge
from tests.fly.guests import Guests
from tests.fly.model import APP, FAR_IMAGE, HANGING_IMAGE, IMAGE, ORG, TOKEN, FakeMachine, Fault
from tests.fly.schema import Schema

__all__ = ["APP", "FAR_IMAGE", "HANGING_IMAGE", "IMAGE", "TOKEN", "FakeFly", "Fault"]


class FakeFly:
    """`async with FakeFly(folder) as fly`: serves at `fly.url` until the end, and ends all guests."""

    def __init__(self, folder: Path, *, sandbox: str = "auto", edge_tls: ssl.SSLContext | None = None) -> None:
        self.guests = Guests(folder, sandbox=sandbox)
        self.edge = Edge(self.guests, edge_tls)
        self.schema = Schema()
        self.machines: dict[str, FakeMachine] = {}
        self.volumes: dict[str, dict[str, Any]] = {}
        self.tokens: dict[str, str] = {TOKEN: ORG}
        self.apps: dict[str, str] = {APP: ORG}
        self.images = {IMAGE, HANGING_IMAGE, FAR_IMAGE}
        self.addresses: list[tuple[str, str]] = []
        self.full: set[str] = set()
        self.stuck: set[str] = set()
        self.ignored_destroys = 0
        self.ahead_s = 0.0
        self.faults: list[Fault] = []
        self.calls: list[tuple[str, str, str]] = []
        self.lag_s = 0.02
        self.url = ""
        self._runner: web.AppRunner | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "FakeFly":
        app = web.Application(middlewares=[self._dated, self._faulty, self._authorized, self._checked])
        app.router.add_routes(self._routes())
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        await self.edge.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.edge.close()
        if self._runner is not None:
            await self._runner.cleanup()
        await self.guests.close()

    def of(self, vm_id: str) -> FakeMachine:
        """The machine of a VM that is not destroyed."""
        return next(
            machine
            for machine in self.machines.values()
            if machine.config["metadata"].get("drape_vm") == vm_id and machine.state != "destroyed"
        )

    async def lose(self, vm_id: str) -> None:
        """The machine ends by itself; it was made to be destroyed then."""
        machine = self.of(vm_id)
        await self.guests.kill(machine.id)
        machine.become("destroyed")

    def forget(self, vm_id: str) -> None:
        """What was suspended of the machine is lost: its next start is a boot, with the files that its image has."""
        self.of(vm_id).cold = True

    def leftovers(self) -> list[str]:
        folder = self.guests.folder
        return [
            *(f"machine {each.id} {each.state}" for each in self.machines.values() if each.state != "destroyed"),
            *(f"volume {each['id']}" for each in self.volumes.values() if each["state"] == "created"),
            *(str(path) for path in (folder.iterdir() if folder.exists() else ())),
        ]

    # -- middlewares

    @web.middleware
    async def _dated(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> Any:
        try:
            response = await handler(request)
        except web.HTTPException as error:
            response = _refused(error.status, error.text or error.reason)
        response.headers["Date"] = formatdate(time.time() + self.ahead_s, usegmt=True)
        response.headers["fly-request-id"] = f"01{uuid4().hex[:24].upper()}-fra"
        return response

    @web.middleware
    async def _faulty(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> Any:
        self.calls.append((request.method, request.path, request.headers.get("fly-machine-lease-nonce", "")))
        for fault in self.faults:
            if fault.method == request.method and re.search(fault.path, request.path) and fault.times > 0:
                fault.times -= 1
                if fault.after:
                    await handler(request)
                return web.Response(status=fault.status, text=fault.body, headers=fault.headers)
        return await handler(request)

    @web.middleware
    async def _authorized(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> Any:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        org = self.tokens.get(token) if scheme == ("FlyV1" if token.startswith("fm2_") else "Bearer") else None
        if org is None:
            return _refused(401, f"Authenticate: token validation error: {token}")
        app = request.match_info.get("app_name")
        if app is not None and app not in self.apps:
            return _refused(404, "app not found")
        if app is not None and self.apps[app] != org:
            return _refused(403, "unauthorized")
        return await handler(request)

    @web.middleware
    async def _checked(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> Any:
        resource = request.match_info.route.resource
        template = resource.canonical if resource is not None else request.path
        text = await request.read()
        self.schema.check_request(request.method, template, dict(request.query), text)
        response = await handler(request)
        body = response.body if isinstance(response, web.Response) and isinstance(response.body, bytes) else b""
        self.schema.check_response(request.method, template, response.status, body)
        return response

    # -- routes

    def _routes(self) -> list[web.RouteDef]:
        machines = "/v1/apps/{app_name}/machines"
        machine = f"{machines}/{{machine_id}}"
        return [
            web.get("/v1/apps/{app_name}", self._show_app),
            web.post("/v1/apps", self._create_app),
            web.post("/v1/apps/{app_name}/ip_assignments", self._assign_ip),
            web.get("/v1/platform/regions", self._regions),
            web.get("/v1/tokens/current", self._token),
            web.get(machines, self._list),
            web.post(machines, self._create),
            web.get(machine, self._show),
            web.delete(machine, self._destroy),
            web.post(f"{machine}/start", self._start),
            web.post(f"{machine}/stop", self._stop),
            web.post(f"{machine}/suspend", self._suspend),
            web.get(f"{machine}/wait", self._wait),
            web.post(f"{machine}/lease", self._lease),
            web.delete(f"{machine}/lease", self._release),
            web.get("/v1/apps/{app_name}/volumes", self._list_volumes),
            web.post("/v1/apps/{app_name}/volumes", self._create_volume),
            web.delete("/v1/apps/{app_name}/volumes/{volume_id}", self._delete_volume),
        ]

    async def _show_app(self, request: web.Request) -> web.Response:
        name = request.match_info["app_name"]
        return web.json_response({"id": name, "name": name, "organization": {"name": ORG, "slug": self.apps[name]}})

    async def _create_app(self, request: web.Request) -> web.Response:
        body = await request.json()
        if body["name"] in self.apps:
            return _refused(422, "Name has already been taken", "name_taken")
        self.apps[body["name"]] = body["org_slug"]
        return web.json_response({"id": body["name"], "created_at": int(time.time())}, status=201)

    async def _assign_ip(self, request: web.Request) -> web.Response:
        kind = (await request.json())["type"]
        self.addresses.append((request.match_info["app_name"], kind))
        return web.json_response({"ip": "2001:db8::1" if kind == "v6" else "192.0.2.1", "shared": kind == "shared_v4"})

    async def _regions(self, _request: web.Request) -> web.Response:
        rows = [{"code": code, "name": code} for code in ("fra", "ams", "iad")]
        return web.json_response({"nearest": "fra", "regions": rows})

    async def _token(self, _request: web.Request) -> web.Response:
        return web.json_response({"tokens": [{"org_slug": ORG, "organization": ORG, "apps": [APP]}]})

    async def _list(self, request: web.Request) -> web.Response:
        wanted = {key[9:]: value for key, value in request.query.items() if key.startswith("metadata.")}
        return web.json_response(
            [
                self._shown(machine)
                for machine in self.machines.values()
                if machine.state != "destroyed" and wanted.items() <= machine.config["metadata"].items()
            ]
        )

    async def _create(self, request: web.Request) -> web.Response:
        body = await request.json()
        config, region = body["config"], body.get("region", "fra")
        for machine in self.machines.values():
            if machine.name == body["name"] and machine.state != "destroyed":
                said = f"unique machine name violation, machine ID {machine.id} already exists with name {machine.name}"
                return _refused(409, f"already_exists: {said}")
        if config["image"] not in self.images:
            return _refused(400, f"image {config['image']}: manifest unknown")
        if config["image"] == FAR_IMAGE:
            return _refused(400, f"image {config['image']} has no manifest for platform linux/amd64")
        if region in self.full:
            said = "insufficient resources available to fulfill request: could not reserve resource for machine"
            return _refused(412, said, "insufficient_capacity")
        machine = FakeMachine(body["name"], region, {"metadata": {}, **config}, time.time() + self.ahead_s)
        self.machines[machine.id] = machine  # before anything is awaited: names are unique
        machine.private_ip = await self.guests.reserve(machine.id, machine.config)
        for mount in config.get("mounts", []):
            self.volumes[mount["volume"]]["attached_machine_id"] = machine.id
        if body.get("lease_ttl"):
            machine.nonce, machine.lease_until = uuid4().hex[:12], time.monotonic() + body["lease_ttl"]
        self._later(self._boot(machine))
        return web.json_response({**self._shown(machine), "nonce": machine.nonce})

    async def _show(self, request: web.Request) -> web.Response:
        return web.json_response(self._shown(self._machine(request)))

    async def _destroy(self, request: web.Request) -> web.Response:
        machine = self._changeable(request)
        if self.ignored_destroys:
            self.ignored_destroys -= 1
            return web.json_response({"ok": True})
        if machine.state not in ("stopped", "suspended", "created", "failed") and request.query.get("force") != "true":
            return _refused(412, f"failed_precondition: machine is {machine.state}, not stopped")
        machine.become("destroying")
        self._later(self._end(machine))
        return web.json_response({"ok": True})

    async def _start(self, request: web.Request) -> web.Response:
        machine = self._changeable(request)
        before = machine.state
        if before == "started":
            return web.json_response({"previous_state": before})
        if before not in ("suspended", "stopped", "created"):
            return _refused(412, f"failed_precondition: unable to start machine from current state: '{before}'")
        machine.become("starting")
        self._later(self._wake(machine) if before == "suspended" else self._boot(machine))
        return web.json_response({"previous_state": before, "migrated": False, "new_host": ""})

    async def _stop(self, request: web.Request) -> web.Response:
        machine = self._changeable(request)
        machine.become("stopping")
        self._later(self._halt(machine))
        return web.json_response({"ok": True})

    async def _suspend(self, request: web.Request) -> web.Response:
        machine = self._changeable(request)
        if machine.state != "started":
            return _refused(412, f"failed_precondition: unable to suspend machine, it is '{machine.state}'")
        machine.become("suspending")
        self._later(self._sleep(machine))
        return web.json_response({"ok": True})

    async def _wait(self, request: web.Request) -> web.Response:
        machine, wanted = self._machine(request), request.query.get("state", "started").split(",")
        try:
            async with asyncio.timeout(float(request.query.get("timeout", "60"))):
                while machine.state not in wanted:
                    await machine.changed.wait()
        except TimeoutError:
            return _refused(408, "deadline_exceeded: request timed out waiting for machine to reach the state")
        return web.json_response({"ok": True, "state": machine.state, "version": machine.instance_id})

    async def _lease(self, request: web.Request) -> web.Response:
        machine, body = self._changeable(request), await request.json()
        machine.nonce = machine.nonce if machine.lease_until > time.monotonic() else uuid4().hex[:12]
        machine.lease_until = time.monotonic() + body.get("ttl", 30)
        lease = {
            "nonce": machine.nonce,
            "expires_at": int(time.time() + self.ahead_s + body.get("ttl", 30)),
            "owner": "someone@example.org",
            "description": body.get("description", ""),
            "version": machine.instance_id,
        }
        return web.json_response({"status": "success", "data": lease}, status=201)

    async def _release(self, request: web.Request) -> web.Response:
        self._changeable(request).lease_until = 0.0
        return web.json_response({"ok": True})

    async def _list_volumes(self, _request: web.Request) -> web.Response:
        return web.json_response([each for each in self.volumes.values() if each["state"] != "destroyed"])

    async def _create_volume(self, request: web.Request) -> web.Response:
        body = await request.json()
        if body.get("region", "fra") in self.full:
            return _refused(412, "insufficient volume capacity", "volume_placement_capacity")
        volume = {
            "id": f"vol_{uuid4().hex[:16]}",
            "name": body["name"],
            "state": "created",
            "size_gb": body["size_gb"],
            "region": body.get("region", "fra"),
            "encrypted": body.get("encrypted", True),
            "created_at": _stamp(time.time() + self.ahead_s),
        }
        self.volumes[volume["id"]] = volume
        return web.json_response(volume)

    async def _delete_volume(self, request: web.Request) -> web.Response:
        volume = self.volumes.get(request.match_info["volume_id"])
        if volume is None:
            return _refused(404, "volume not found")
        attached = self.machines.get(volume.get("attached_machine_id", ""))
        if attached is not None and attached.state != "destroyed":
            return _refused(412, "failed_precondition: volume is attached to a machine")
        volume["state"] = "pending_destroy"
        return web.json_response(volume)

    # -- life

    def _machine(self, request: web.Request) -> FakeMachine:
        machine = self.machines.get(request.match_info["machine_id"])
        if machine is None or machine.state == "destroyed":
            raise web.HTTPNotFound(text="machine not found")
        return machine

    def _changeable(self, request: web.Request) -> FakeMachine:
        """The machine, where the caller may change it: nobody holds a lease, or the caller does."""
        machine = self._machine(request)
        if machine.lease_until > time.monotonic() and request.headers.get("fly-machine-lease-nonce") != machine.nonce:
            raise web.HTTPConflict(
                text=f"failed_precondition: lease currently held by someone@example.org on {machine.id}"
            )
        return machine

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _lag(self) -> None:
        """A passing state takes a moment."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), self.lag_s)

    async def _boot(self, machine: FakeMachine) -> None:
        await self._lag()
        if machine.state not in ("created", "starting"):
            return
        machine.become("starting")
        if "starting" in self.stuck:
            return
        try:
            await self.guests.boot(machine.id, machine.config)
        except ProviderError:
            machine.become("failed")
            return
        if machine.state == "starting":
            machine.become("started")
        else:  # it was destroyed meanwhile
            await self.guests.kill(machine.id)

    async def _wake(self, machine: FakeMachine) -> None:
        await self._lag()
        if "starting" in self.stuck:
            return
        if machine.cold:
            machine.cold = False
            await self.guests.restart(machine.id, machine.config)
        else:
            await self.guests.resume(machine.id)
        machine.become("started")

    async def _sleep(self, machine: FakeMachine) -> None:
        await self._lag()
        if "suspending" in self.stuck:
            return
        await self.guests.suspend(machine.id)
        machine.become("suspended")

    async def _halt(self, machine: FakeMachine) -> None:
        await self._lag()
        await self.guests.kill(machine.id)
        machine.become("stopped")

    async def _end(self, machine: FakeMachine) -> None:
        await self._lag()
        if "destroying" in self.stuck:
            return
        await self.guests.kill(machine.id)
        machine.become("destroyed")

    def _shown(self, machine: FakeMachine) -> dict[str, Any]:
        return {
            "id": machine.id,
            "name": machine.name,
            "state": machine.state,
            "region": machine.region,
            "instance_id": machine.instance_id,
            "version": machine.instance_id,
            "private_ip": machine.private_ip,
            "created_at": _stamp(machine.created_at),
            "updated_at": _stamp(machine.created_at),
            "config": machine.config,
            "image_ref": {
                "registry": "registry.fly.io",
                "repository": APP,
                "digest": machine.config["image"].split("@")[-1],
            },
            "events": [{"id": uuid4().hex, "type": "launch", "status": "created", "source": "user", "timestamp": 0}],
            "host_status": "ok",
        }


def _stamp(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")


def _refused(status: int, error: str, kind: str = "unknown") -> web.Response:
    return web.json_response({"error": error, "status": kind}, status=status)
