"""A real Prometheus for tests: the one that `.ci/prometheus` has found or made. Started on a free port, ended with its block."""

import asyncio
import math
import os
import re
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import yaml

from tests.deploy.waiting import eventually

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / ".tools" / "prometheus"
REQUIRED = "DRAPE_TEST_PROMETHEUS"
"""Set by CI where `.ci/prometheus` has one: then no test may be left out for want of it."""
START_TIMEOUT_S = 60.0
REQUEST_TIMEOUT_S = 30.0
Json = dict[str, Any]


def tool(name: str) -> str:
    """`prometheus` or `promtool`; skips the test, with what to do, where there is none."""
    found = TOOLS / name if (TOOLS / name).exists() else shutil.which(name)
    if found is None:
        assert not os.environ.get(REQUIRED), f"{REQUIRED} is set, but there is no {name} in {TOOLS}"
        pytest.skip(f"no {name} here; .ci/prometheus gets one")
    return str(found)


def promtool(*arguments: str | Path) -> str:
    """What `promtool ARGUMENTS` says; fails the test, with that, where it does not like what it reads."""
    done = subprocess.run(
        [tool("promtool"), *map(str, arguments)], capture_output=True, text=True, check=False, timeout=REQUEST_TIMEOUT_S
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def filled(expr: str, variables: Mapping[str, str] | None = None, *, rate_interval: str = "1m") -> str:
    """A dashboard's query as Grafana sends it: its variables replaced, by any value where none is given."""
    known = {"__rate_interval": rate_interval, **(variables or {})}
    return re.sub(r"\$(\w+)", lambda found: known.get(found[1], ".+"), expr)


class Prometheus(msgspec.Struct, frozen=True):
    """One that runs, and a session to ask it with."""

    url: str
    session: aiohttp.ClientSession

    @property
    def otlp_metrics(self) -> str:
        """Where metrics are sent."""
        return f"{self.url}/api/v1/otlp/v1/metrics"

    async def ask(self, what: str, **parameters: str | float) -> Any:
        """What `/api/v1/WHAT` answers; fails the test where it is refused, with the reason."""
        given = {key: str(value) for key, value in parameters.items()}
        method = "POST" if given else "GET"  # queries may be long
        async with self.session.request(method, f"{self.url}/api/v1/{what}", data=given or None) as response:
            answer = await response.json()
        assert answer["status"] == "success", f"{answer.get('error')}: {parameters}"
        return answer["data"]

    async def values(self, expr: str, start: float, end: float, step_s: float = 1.0) -> list[float]:
        """Every finite value of a query between two times, of all its series."""
        data = await self.ask("query_range", query=expr, start=start, end=end, step=step_s)
        every = (float(value) for series in data["result"] for _, value in series["values"])
        return [value for value in every if math.isfinite(value)]

    async def alerts(self) -> dict[str, str]:
        """The state of each alert that is not quiet, by name."""
        data = await self.ask("alerts")
        return {each["labels"]["alertname"]: each["state"] for each in data["alerts"]}


def _config(rules: Path | None) -> Json:
    """compose's own, but for what it scrapes."""
    config: Json = yaml.safe_load((ROOT / "deploy/compose.d/prometheus.yaml").read_text("utf-8"))
    config.pop("scrape_configs")
    config["global"]["evaluation_interval"] = "1s"
    config["rule_files"] = [str(rules)] if rules is not None else []
    return config


def _flags() -> list[str]:
    """compose's own, but for where things are."""
    compose = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text("utf-8"))
    own = ("--config.file", "--storage.tsdb.path")
    return [flag for flag in compose["services"]["prometheus"]["command"] if not flag.startswith(own)]


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


@asynccontextmanager
async def running(folder: Path, rules: Path | None = None) -> AsyncIterator[Prometheus]:
    """A Prometheus with compose's configuration and flags, and these alert rules, evaluated every second."""
    program = tool("prometheus")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(_config(rules)), "utf-8")
    port = _free_port()
    own = [f"--config.file={folder}/prometheus.yaml", f"--storage.tsdb.path={folder}/data"]
    with (folder / "said").open("wb") as said:
        process = await asyncio.create_subprocess_exec(
            program, *_flags(), *own, f"--web.listen-address=127.0.0.1:{port}", stdout=said, stderr=said
        )
    url = f"http://127.0.0.1:{port}"

    async def answers() -> bool:
        assert process.returncode is None, (folder / "said").read_text("utf-8")
        try:
            async with session.get(f"{url}/-/ready") as response:
                return response.status == 200
        except aiohttp.ClientConnectionError:
            return False

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)) as session:
        try:
            await eventually(answers, START_TIMEOUT_S)
            yield Prometheus(url, session)
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()
