"""A VM with a network of its own: only its agent can be reached, and the gateway reaches the dev server through it."""

import asyncio
import contextlib
import hashlib
import io
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import WSMsgType

from services.gateway.adapters.preview_target import Through
from services.pool.adapters.health import AgentHealthProbe
from services.pool.ports import VmAddress
from shared.agent.client import AgentClient
from shared.agent.protocol import JobSpec, Ready, ReadySpec
from shared.reach import Reach, agent_url
from shared.secrets import agent_token
from tests.chaos.hosts import isolation_missing, run
from tests.gateway.proxy_stage import HOST, SECRET, TIMEOUT_S, VM, Stage, stage
from tests.live.platform import ROOT
from tests.shared.agent.world import until

REACH = Reach(tunnel=True)
BIG_BYTES = 20 * 1024 * 1024
SERVER = r"""
const http = require('http'), crypto = require('crypto');
const big = Buffer.alloc(20 * 1024 * 1024, 'drape');
let connections = 0;
const server = http.createServer((request, response) => {
  if (request.url === '/upload') {
    const hash = crypto.createHash('sha256');
    request.on('data', part => hash.update(part)).on('end', () => response.end(hash.digest('hex')));
  } else if (request.url === '/big') response.end(big);
  else if (request.url === '/connections') response.end(String(connections));
  else if (request.url === '/stream') { response.write('one\n'); server.once('go', () => response.end('two\n')); }
  else if (request.url === '/go') { server.emit('go'); response.end(); }
  else { response.setHeader('Content-Type', 'text/html'); response.end('<p>inside</p>'); }
});
server.on('connection', () => connections++);
server.on('upgrade', (request, socket) => {
  const key = request.headers['sec-websocket-key'] + '258EAFA5-E914-47DA-95CA-C5AB0DC85B11';
  socket.write('HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: '
    + crypto.createHash('sha1').update(key).digest('base64') + '\r\n\r\n');
  let got = Buffer.alloc(0);
  socket.on('data', part => {  // frames as they come, their mask taken off, sent back
    got = Buffer.concat([got, part]);
    while (got.length >= 6) {
      const short = got[1] & 127, wide = short === 126 ? 2 : short === 127 ? 8 : 0;
      if (got.length < 6 + wide) return;
      const length = wide === 0 ? short : wide === 2 ? got.readUInt16BE(2) : Number(got.readBigUInt64BE(2));
      if (got.length < 6 + wide + length) return;
      const mask = got.subarray(2 + wide, 6 + wide), body = Buffer.from(got.subarray(6 + wide, 6 + wide + length));
      for (let i = 0; i < length; i++) body[i] ^= mask[i & 3];
      const head = Buffer.from(got.subarray(0, 2 + wide));
      head[1] &= 127;
      socket.write(Buffer.concat([head, body]));
      got = got.subarray(6 + wide + length);
    }
  }).on('error', () => socket.destroy());
});
server.listen(Number(process.env.PORT), '127.0.0.1');
"""

MISSING = isolation_missing()
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"no network of its own can be made: {MISSING}")


@pytest.fixture(scope="module")
def network() -> Iterator[tuple[str, str]]:
    """A network namespace at the end of a cable: its name, and its address."""
    mark = os.getpid() % 16_000
    space, cable = f"drape-vm-{mark}", f"dv{mark}"
    third, fourth = divmod(mark * 4 % 65_536, 256)
    ours, theirs = (f"10.213.{third}.{fourth + number}" for number in (1, 2))
    with contextlib.ExitStack() as stack:
        run("ip", "netns", "add", space)
        stack.callback(run, "ip", "netns", "del", space)
        run("ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", space)
        run("ip", "addr", "add", f"{ours}/30", "dev", cable)
        run("ip", "link", "set", cable, "up")
        run("ip", "-n", space, "addr", "add", f"{theirs}/30", "dev", "eth0")
        run("ip", "-n", space, "link", "set", "eth0", "up")
        run("ip", "-n", space, "link", "set", "lo", "up")
        yield space, theirs


@asynccontextmanager
async def vm(network: tuple[str, str], folder: Path) -> AsyncIterator[VmAddress]:
    """An agent in that network, as an image starts it; and, on its loopback alone, a Node server."""
    space, address = network
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(agent_token(SECRET, VM))
    port_file = folder / "port.json"
    words = ("--vm-id", VM, "--root", str(folder / "vm"), "--port-file", str(port_file))
    process = await asyncio.create_subprocess_exec(
        *("ip", "netns", "exec", space, sys.executable, "-m", "shared.agent", *words),
        *("--listen", "[::]:0", "--token-file", str(token)),
        stdin=asyncio.subprocess.DEVNULL,
        cwd=ROOT,
    )
    try:
        await until(port_file.exists, 60)
        yield VmAddress(address, json.loads(port_file.read_bytes())["port"], REACH)
    finally:
        process.terminate()
        await process.wait()


@asynccontextmanager
async def preview(network: tuple[str, str], folder: Path) -> AsyncIterator[Stage]:
    """A preview of that server behind the gateway's proxy. It is ready as the orchestrator sees it, and met by the pool."""
    async with vm(network, folder) as at, aiohttp.ClientSession() as session:
        await AgentHealthProbe(session, SECRET, 30.0).meet(VM, at)
        client = AgentClient(agent_url(at.host, at.port, at.reach), agent_token(SECRET, VM), session, lease=7)
        spec = JobSpec(argv=("node", "-e", SERVER), env={"PORT": "{port}", "PATH": os.environ["PATH"]})
        await client.start_job("dev-1", spec)
        updates = [update async for update in client.ready("dev-1", ReadySpec(timeout_s=90))]
        ready = updates[-1]
        assert isinstance(ready, Ready), ready
        with pytest.raises(
            ConnectionRefusedError
        ):  # not to be dialled from here: neither as told, nor at the VM's address
            await asyncio.open_connection(at.host, ready.port)
        through = Through(VM, at.host, at.port, 7, at.reach)
        async with stage(upstream_host=ready.host, upstream_port=ready.port, through=through) as on:
            yield on


async def test_a_dev_server_on_the_vms_loopback_is_reached_through_its_agent(
    network: tuple[str, str], tmp_path: Path
) -> None:
    """Pages, streams, 20 MB either way, and a WebSocket; and connections are used again."""
    async with preview(network, tmp_path) as on:
        async with on.client.get(on.url()) as answer:
            assert (answer.status, await answer.text()) == (200, "<p>inside</p>")
        async with on.client.get(on.url("/big")) as answer:
            got = await answer.read()
            assert hashlib.sha256(got).digest() == hashlib.sha256(b"drape" * (BIG_BYTES // 5)).digest()
        sent = os.urandom(BIG_BYTES)
        async with on.client.post(on.url("/upload"), data=io.BytesIO(sent)) as answer:
            assert await answer.text() == hashlib.sha256(sent).hexdigest()
        async with on.client.get(on.url("/stream")) as streamed:
            assert await streamed.content.readline() == b"one\n"  # while the answer has no end yet
            async with on.client.get(on.url("/go")) as answer:
                assert answer.status == 200
            assert await streamed.content.readline() == b"two\n"
        async with on.client.ws_connect(on.url("/hmr"), origin=f"http://{HOST}") as socket:
            for data in (b"x", b"y" * 300, os.urandom(1024 * 1024)):
                await socket.send_bytes(data)
                message = await socket.receive(TIMEOUT_S)
                assert (message.type, message.data) == (WSMsgType.BINARY, data)
        for _ in range(10):
            async with on.client.get(on.url("/connections")) as answer:
                connections = int(await answer.text())
        assert connections < 12  # the probe's, and ours: far fewer than requests


async def test_twenty_megabytes_pass_both_ways_at_once(network: tuple[str, str], tmp_path: Path) -> None:
    sent = os.urandom(BIG_BYTES)

    async def up(on: Stage) -> str:
        async with on.client.post(on.url("/upload"), data=io.BytesIO(sent)) as answer:
            return await answer.text()

    async def down(on: Stage) -> bytes:
        async with on.client.get(on.url("/big")) as answer:
            return await answer.read()

    async with preview(network, tmp_path) as on:
        got = await asyncio.gather(*(up(on) for _ in range(2)), *(down(on) for _ in range(2)))
    assert got == [hashlib.sha256(sent).hexdigest()] * 2 + [b"drape" * (BIG_BYTES // 5) + b"drape"[: BIG_BYTES % 5]] * 2
