"""The agent's token from a file, and the address that it listens on: what an image needs."""

import asyncio
import json
import socket
import sys
from pathlib import Path

import aiohttp
import pytest

from shared.agent.client import AgentClient
from shared.agent.tokens import TokenUnusable, read_token

from .world import REPOSITORY, TOKEN, until


def token_file(tmp_path: Path, mode: int, text: str = f"{TOKEN}\n") -> Path:
    file = tmp_path / "token"
    file.write_text(text)
    file.chmod(mode)
    return file


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_file_is_read_once(tmp_path: Path, mode: int) -> None:
    file = token_file(tmp_path, mode)
    assert read_token(file) == TOKEN
    assert not file.exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    file = token_file(tmp_path, mode)
    with pytest.raises(TokenUnusable, match="chmod 600"):
        read_token(file)


def test_what_holds_no_token_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenUnusable, match="is empty"):
        read_token(token_file(tmp_path, 0o600, " \n"))
    with pytest.raises(TokenUnusable, match="can't be read"):
        read_token(tmp_path / "missing")
    (tmp_path / "link").symlink_to(token_file(tmp_path, 0o600))
    with pytest.raises(TokenUnusable, match="can't be read"):
        read_token(tmp_path / "link")
    with pytest.raises(TokenUnusable, match="plain file"):
        read_token(tmp_path)


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 on this machine")
async def test_an_agent_listens_on_every_address_with_the_token_of_a_file(tmp_path: Path) -> None:
    port_file = tmp_path / "port.json"
    words = ("--vm-id", "vm-1", "--root", str(tmp_path / "vm"), "--port-file", str(port_file))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "shared.agent", *words),
        *("--listen", "[::]:0", "--token-file", str(token_file(tmp_path, 0o600))),
        stdin=asyncio.subprocess.DEVNULL,
        cwd=REPOSITORY,
    )
    try:
        await until(port_file.exists, 60)
        port = json.loads(port_file.read_bytes())["port"]
        async with aiohttp.ClientSession() as session:
            for host in ("127.0.0.1", "[::1]"):
                client = AgentClient(f"http://{host}:{port}", TOKEN, session, headers=(("x-instance", "a"),))
                assert (await client.health()).vm_id == "vm-1"
    finally:
        process.terminate()
        await process.wait()
