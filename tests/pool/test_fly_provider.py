"""The Fly provider: the contract, over the private network and through the app's address, against the fake API."""

import json
import os
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import psutil
import pytest

from services.pool.adapters.fly import FlyProvider
from services.pool.adapters.fly_config import FlyConfig, token_of
from shared.settings import from_env
from tests.fly.faulty import Front
from tests.fly.machines_api import APP, HANGING_IMAGE, IMAGE, TOKEN, FakeFly
from tests.pool.contract_home import FAULTS, Fault
from tests.pool.provider_contract import ProviderContract

HOME = "0a1b2c3d4e5f"


class FlyHome:
    """Fly providers on one fake."""

    isolated = True
    limits_memory = True
    runs_agents = True
    shares_network = True
    faults: frozenset[Fault] = frozenset(FAULTS)

    def __init__(self, fly: FakeFly, fronts: dict[Fault, Front], config: FlyConfig) -> None:
        self.fly = fly
        self.config = config
        self._fronts = fronts

    def provider(self, home: str = HOME, token: str = TOKEN) -> FlyProvider:
        return FlyProvider(self.config, token, home)

    def hanging(self) -> FlyProvider:
        config = msgspec.structs.replace(self.config, image=HANGING_IMAGE, boot_timeout_s=0.5)
        return FlyProvider(config, TOKEN, HOME)

    def faulty(self, fault: Fault) -> FlyProvider:
        config = msgspec.structs.replace(
            self.config, api_url=self._fronts[fault].url, request_timeout_s=0.5, create_timeout_s=0.5, tries_max=2
        )
        return FlyProvider(config, TOKEN, HOME)

    async def lose(self, vm_id: str) -> None:
        await self.fly.lose(vm_id)

    def visible(self, vm_id: str) -> str:
        """What the API lists, but for the file of the token, which it shows to those alone who may change the machine; and
        the guest's processes."""
        machine = self.fly.of(vm_id)
        shown = {key: value for key, value in machine.config.items() if key != "files"}
        seen = [machine.name, json.dumps(shown)]
        for process in psutil.process_iter():
            try:
                words = process.cmdline()
                if vm_id in words:
                    seen += [*words, *map(str, process.environ().items())]
            except psutil.Error:
                continue
        return "\n".join(seen)

    def leftovers(self) -> list[str]:
        return self.fly.leftovers()


def config_for(fly: FakeFly) -> FlyConfig:
    return FlyConfig(app=APP, image=IMAGE, api_url=fly.url, boot_timeout_s=60.0, poll_s=0.02, ignored_s=1.0)


@pytest.fixture
async def fly(tmp_path: Path) -> AsyncIterator[FakeFly]:
    async with FakeFly(tmp_path / "vms") as fly:
        yield fly
        assert fly.schema.violations == []


@pytest.fixture
async def fronts() -> AsyncIterator[dict[Fault, Front]]:
    fronts = {fault: Front(fault) for fault in FAULTS}
    for front in fronts.values():
        await front.start()
    yield fronts
    for front in fronts.values():
        await front.close()


class TestPrivate(ProviderContract):
    """On the private network."""

    @pytest.fixture
    def home(self, fly: FakeFly, fronts: dict[Fault, Front]) -> FlyHome:
        return FlyHome(fly, fronts, config_for(fly))


class TestEdge:
    """Through the app's address, one port for all machines: what has to do with where an agent is."""

    @pytest.fixture
    def home(self, fly: FakeFly, fronts: dict[Fault, Front]) -> FlyHome:
        edge = {"reach": "edge", "edge_host": "127.0.0.1", "edge_port": fly.edge.port, "edge_tls": False}
        return FlyHome(fly, fronts, msgspec.structs.replace(config_for(fly), **edge))

    provider, http = ProviderContract.provider, ProviderContract.http
    test_token = ProviderContract.test_a_created_vm_answers_its_token_only
    test_outliving = ProviderContract.test_vms_outlive_the_provider_that_made_them
    test_suspending = ProviderContract.test_suspend_stops_everything_and_resume_goes_on
    test_many = ProviderContract.test_many_vms_boot_at_once


class RealHome:
    """Providers on an app of Fly's own, named by the environment."""

    isolated = True
    limits_memory = True
    runs_agents = True
    shares_network = False
    faults: frozenset[Fault] = frozenset(FAULTS)

    def __init__(self, fronts: dict[Fault, Front]) -> None:
        self.config = msgspec.structs.replace(from_env(FlyConfig, "DRAPE_POOL_FLY"), boot_timeout_s=120.0)
        self.token = token_of(self.config, os.environ)
        self.home = f"test{uuid4().hex[:8]}"
        self._fronts = fronts

    def provider(self) -> FlyProvider:
        return FlyProvider(self.config, self.token, self.home)

    def hanging(self) -> FlyProvider:
        sleeping = "/opt/drape/bin/python -c __import__('time').sleep(600)"
        config = msgspec.structs.replace(self.config, agent_command=sleeping, boot_timeout_s=15.0)
        return FlyProvider(config, self.token, self.home)

    def faulty(self, fault: Fault) -> FlyProvider:
        changes = {
            "api_url": self._fronts[fault].url,
            "request_timeout_s": 0.5,
            "create_timeout_s": 0.5,
            "tries_max": 2,
        }
        return FlyProvider(msgspec.structs.replace(self.config, **changes), self.token, self.home)

    async def lose(self, vm_id: str) -> None:
        """Another tool destroys it."""
        other = self.provider()
        await other.destroy(vm_id)
        await other.close()

    def visible(self, vm_id: str) -> str:
        """The machine as the API lists it, but for the token's file."""
        [machine] = [each for each in self._machines() if each["config"]["metadata"].get("drape_vm") == vm_id]
        machine["config"].pop("files", None)
        return json.dumps(machine)

    def leftovers(self) -> list[str]:
        return [f"machine {each['id']} {each['state']}" for each in self._machines()]

    def _machines(self) -> list[dict[str, Any]]:
        scheme = "FlyV1" if self.token.startswith("fm") else "Bearer"
        url = f"{self.config.api_url}/v1/apps/{self.config.app}/machines?metadata.drape_home={self.home}"
        request = urllib.request.Request(url, headers={"Authorization": f"{scheme} {self.token}"})
        with urllib.request.urlopen(request, timeout=30) as response:
            found: list[dict[str, Any]] = json.load(response)
        return [each for each in found if each["state"] not in ("destroyed", "destroying")]


@pytest.mark.skipif(
    not (os.environ.get("FLY_API_TOKEN") and os.environ.get("DRAPE_POOL_FLY_APP")),
    reason="the real Machines API is tried where FLY_API_TOKEN and DRAPE_POOL_FLY_APP are set",
)
class TestReal(ProviderContract):
    """Fly's own API, with the image and the reach that the environment names."""

    @pytest.fixture
    def home(self, fronts: dict[Fault, Front]) -> RealHome:
        return RealHome(fronts)
