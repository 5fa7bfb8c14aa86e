"""What the command line does only when it is told to: deleting, and showing passwords."""

import asyncio
import os
import pty
import subprocess

from tests.live.client import SERVER, Client, node_project
from tests.live.platform import Platform


def answered(platform: Platform, answer: bytes, *arguments: str) -> tuple[int, str]:
    """`drape ARGUMENTS` at a terminal where somebody types `answer`: exit code and output. Blocks."""
    ours, theirs = pty.openpty()
    try:
        os.write(ours, answer)
        done = subprocess.run(
            platform.argv(*arguments), env=platform.env, stdin=theirs, capture_output=True, timeout=150, check=False
        )
    finally:
        os.close(ours)
        os.close(theirs)
    return done.returncode, (done.stdout + done.stderr).decode()


async def test_a_deletion_is_asked_for_at_a_terminal(platform: Platform, client: Client) -> None:
    """Anything but yes leaves the project as it is."""
    project_id = await client.project(node_project(SERVER), name="asked-for")

    code, said = await asyncio.to_thread(answered, platform, b"n\n", "project", "delete", project_id)
    assert (code, "asked-for" in said, "Nothing was deleted" in said) == (1, True, True)
    assert (await client.call("GET", f"/api/projects/{project_id}")).status == 200

    code, said = await asyncio.to_thread(answered, platform, b"y\n", "project", "delete", project_id)
    assert (code, f"{project_id} is deleted" in said) == (0, True)


async def test_passwords_are_shown_when_they_are_asked_for(platform: Platform) -> None:
    """Otherwise the addresses are whole but for them."""
    shown = (await platform.drape("status", "--json")).last
    whole = (await platform.drape("status", "--json", "--secrets")).last

    for name in ("nats", "postgres"):
        before, _, after = whole[name].rpartition("@")
        user, _, password = before.rpartition(":")
        assert len(password) > 8
        assert shown[name] == f"{user}:***@{after}"
        assert password not in str(shown)
