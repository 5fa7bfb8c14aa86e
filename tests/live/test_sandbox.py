"""What a project's dev server may see of this machine: its own files, nobody else's."""

import json
import shutil
from pathlib import Path

import pytest

from tests.live.client import Client
from tests.live.platform import Platform

pytestmark = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")

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

    secrets = sorted(platform.home.secrets.iterdir())
    hidden = [Path("/root"), platform.home.root, platform.home.vms, *secrets, platform.home.run / "status.json"]
    hidden += [folder for folder in platform.home.vms.iterdir() if folder.name != view["vm_id"]]
    for path in hidden:
        assert path.exists()
        seen = await ask(f"/look?path={path}")
        names = sorted(each.name for each in path.iterdir()) if path.is_dir() else []
        assert "error" in seen or not set(names) & set(seen.get("found") or ()), (path, seen)  # type: ignore[call-overload]
    environment = await ask("/env")
    told = json.dumps(environment)
    assert not {"NATS_URL", "DATABASE_URL", "DRAPE_SECRET", "DRAPE_HOME"} & set(environment)
    for secret in secrets:
        assert secret.read_text().strip() not in told
    inside = (await client.visit(preview_id, "/processes")).json
    assert len(inside) < 30
    assert await ask(f"/kill?pid={platform.pid('pool')}") == {"error": "ESRCH"}
    await client.stop(preview_id)
