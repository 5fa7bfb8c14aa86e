"""What a project's dev server may see of this machine: its own files, nobody else's."""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import cast

import pytest

from tests.live.client import Client
from tests.live.platform import Platform

pytestmark = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")

ON_THE_WAY = {
    part
    for tool in (sys.prefix, sys.base_prefix, os.path.realpath(shutil.which("node") or "/"))
    for part in Path(tool).parts
}

SPY: dict[str, str | bytes] = {
    "package.json": json.dumps(
        {"name": "spy", "scripts": {"dev": "node server.js"}, "dependencies": {"express": "^5.0.0"}, "type": "module"}
    ),
    "server.js": """
import express from 'express'
import fs from 'node:fs'
const app = express()
app.get('/', (request, response) => response.send('<title>spy</title>'))
app.get('/look', (request, response) => {
  const path = request.query.path
  try {
    const found = fs.statSync(path).isDirectory() ? fs.readdirSync(path) : fs.readFileSync(path, 'utf8')
    response.json({ found })
  } catch (error) {
    response.json({ error: error.code })
  }
})
app.get('/env', (request, response) => response.json(process.env))
app.get('/processes', (request, response) => {
  response.json(fs.readdirSync('/proc').filter((name) => Number(name) > 0))
})
app.get('/kill', (request, response) => {
  try {
    process.kill(Number(request.query.pid), 0)
    response.json({ reached: true })
  } catch (error) {
    response.json({ error: error.code })
  }
})
app.listen(process.env.PORT, '127.0.0.1')
""",
}


async def test_a_dev_server_sees_neither_the_machine_nor_another_vm(platform: Platform, client: Client) -> None:
    """The host's home of root, Drape's own folder with its secrets, another VM's files, the host's processes and the
    services' environment: none can be read from inside."""
    view = await client.ready(SPY)
    preview_id = view["preview_id"]

    async def ask(path: str) -> dict[str, object]:
        answer = await client.visit(preview_id, path)
        assert answer.status == 200, answer.text
        found: dict[str, object] = answer.json
        return found

    secrets = sorted(path for path in platform.home.secrets.rglob("*") if path.is_file())
    hidden = [Path("/root"), platform.home.root, platform.home.vms, *secrets, platform.home.run / "status.json"]
    hidden += [folder for folder in platform.home.vms.iterdir() if folder.name != view["vm_id"]]
    for path in hidden:
        assert path.exists()
        seen = await ask(f"/look?path={path}")
        if "error" in seen:
            continue
        # Python and Node are mounted where they are: of a folder on the way there, only that way may show.
        names = {each.name for each in path.iterdir()} if path.is_dir() else {path.read_text()}
        assert not names & set(cast(list[str], seen["found"])) - ON_THE_WAY, (path, seen)
    environment = await ask("/env")
    told = json.dumps(environment)
    assert not {"NATS_URL", "DATABASE_URL", "DRAPE_SECRET", "DRAPE_HOME"} & set(environment)
    for secret in secrets:
        assert secret.read_text().strip() not in told
    inside = (await client.visit(preview_id, "/processes")).json
    assert len(inside) < 30
    assert await ask(f"/kill?pid={platform.pid('pool')}") == {"error": "ESRCH"}
    await client.stop(preview_id)
