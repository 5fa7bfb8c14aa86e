"""Servers that answer and are not right: errors behind a page that is fine, redirects without end, silence."""

import asyncio
import socket

import psutil
import pytest

from shared.agent.protocol import Ready, Unusable, Waiting

from .test_readiness import free_port, updates, watch
from .world import RunningAgent

MODULES = """
FILES = {
    '/': (b'<!doctype html><script type="module" src="/src/main.js"></script>', 'text/html'),
    '/src/main.js': (b'import {a} from "./a.js"\\nimport "/node_modules/x/x.js"', 'text/javascript'),
    '/src/a.js': (b'export {b} from "/src/deep/b.js"', 'text/javascript'),
}
seen = []
def answer(r):
    path = r.split()[1].decode()
    print(path, flush=True)
    if path in FILES:
        return page(body=FILES[path][0], kind=FILES[path][1])
    return page('500 Internal Server Error')
serve(listen(), answer)
"""


async def test_an_error_in_a_module_that_the_page_loads_is_found(agent: RunningAgent) -> None:
    """The page is 200; what its script's import imports is not. Packages and tools are not looked at."""
    seen = await watch(agent, MODULES, free_port(), error_grace_s=0.5)
    final = seen[-1]

    assert isinstance(final, Ready)
    assert (final.with_errors, final.status, final.detail) == (True, 500, "/src/deep/b.js answered 500")
    asked = [line.text async for line in agent.client.log("dev")]
    assert "/node_modules/x/x.js" not in asked


async def test_without_a_look_at_scripts_the_page_alone_counts(agent: RunningAgent) -> None:
    seen = await watch(agent, MODULES, free_port(), entry=False)

    assert isinstance(seen[-1], Ready)
    assert not seen[-1].with_errors


async def test_scripts_that_are_missing_or_elsewhere_do_not_matter(agent: RunningAgent) -> None:
    """A 404 is the project's business; other servers and packages are nobody's here."""
    code = """
body = b'<script src="http://127.0.0.1:1/x.js"></script><script src="/missing.js"></script><script>1</script>'
serve(listen(), lambda r: page(body=body) if r.split()[1] == b'/' else page('404 Not Found'))
"""
    seen = await watch(agent, code, free_port())

    assert isinstance(seen[-1], Ready)
    assert not seen[-1].with_errors


async def test_a_redirect_within_the_server_is_followed(agent: RunningAgent) -> None:
    """Vite with a base: what counts is the page at the end."""
    code = """
def answer(r):
    if r.split()[1] == b'/base/': return page('500 Internal Server Error')
    return b'HTTP/1.1 302 Found\\r\\nLocation: /base/\\r\\nContent-Length: 0\\r\\n\\r\\n'
serve(listen(), answer)
"""
    seen = await watch(agent, code, free_port(), error_grace_s=0.5)

    assert isinstance(seen[-1], Ready)
    assert (seen[-1].status, seen[-1].with_errors) == (500, True)


async def test_a_redirect_to_another_server_is_an_answer(agent: RunningAgent) -> None:
    code = """
reply = b'HTTP/1.1 302 Found\\r\\nLocation: https://login.example.com/\\r\\nContent-Length: 0\\r\\n\\r\\n'
serve(listen(), lambda r: reply)
"""
    seen = await watch(agent, code, free_port())

    assert isinstance(seen[-1], Ready)
    assert seen[-1].status == 302


async def test_a_page_that_redirects_to_itself_says_so(agent: RunningAgent) -> None:
    code = """
serve(listen(), lambda r: b'HTTP/1.1 307 Temporary Redirect\\r\\nLocation: /\\r\\nContent-Length: 0\\r\\n\\r\\n')
"""
    seen = await watch(agent, code, free_port())

    assert isinstance(seen[-1], Unusable)
    assert seen[-1].cause == "redirect_loop"
    assert "redirects" in seen[-1].detail
    assert seen[-1].elapsed_s < 10


async def test_a_server_on_an_outside_address_alone_is_told(agent: RunningAgent) -> None:
    """The gateway dials loopback: it names where the server listens instead."""
    outside = _outside_address()
    code = f"serve(listen(host='{outside}'))"
    port = free_port()
    seen = await watch(agent, code, port, elsewhere_grace_s=0.6)

    assert isinstance(seen[-1], Unusable)
    assert seen[-1].cause == "wrong_interface"
    assert f"{outside}:{port}" in seen[-1].detail


def _outside_address() -> str:
    """An address of this machine that is not loopback."""
    for addresses in psutil.net_if_addrs().values():
        for address in addresses:
            if address.family == socket.AF_INET and not address.address.startswith("127."):
                return address.address
    # Any address of the loopback network that is not 127.0.0.1 would be dialled; there is no other one here.
    pytest.skip("this machine has no address but loopback")


@pytest.mark.parametrize("listens", [False, True])
async def test_a_job_without_output_and_without_an_answer_hangs(agent: RunningAgent, listens: bool) -> None:
    """Found long before the time limit, whether or not a port is open."""
    code = "s = listen(); time.sleep(60)" if listens else "time.sleep(60)"
    seen = await watch(agent, code, free_port(), hung_s=1.5)

    assert isinstance(seen[-1], Unusable)
    assert seen[-1].cause == "hung"
    assert 1.4 <= seen[-1].elapsed_s < 5
    assert ("is open" in seen[-1].detail) == listens


async def test_output_keeps_a_slow_job_from_counting_as_hung(agent: RunningAgent) -> None:
    """A line now and then is a sign of life; silence is told while it lasts."""
    code = """
for n in range(8):
    time.sleep(0.4); print('compiling', n, flush=True)
serve(listen())
"""
    seen = await watch(agent, code, free_port(), hung_s=1.5)

    assert isinstance(seen[-1], Ready)
    assert all(update.quiet_s < 1.5 for update in seen if isinstance(update, Waiting))


async def test_a_first_page_that_compiles_is_told_as_one_long_request(agent: RunningAgent) -> None:
    """One request, held: `asking_s` grows; the job hears of no second one."""
    code = """
def answer(r):
    print('asked', flush=True); time.sleep(2.5); return page()
serve(listen(), answer)
"""
    seen = await watch(agent, code, free_port())

    assert isinstance(seen[-1], Ready)
    asking = [update.asking_s for update in seen if isinstance(update, Waiting)]
    assert max(asking) > 1.5
    assert [line.text async for line in agent.client.log("dev")].count("asked") == 1


async def test_errors_that_pass_within_the_grace_are_none(agent: RunningAgent) -> None:
    """And a later look at the same job gives the newest answer: a project that was mended."""
    code = """
began = time.time()
serve(listen(), lambda r: page('500 Internal Server Error') if time.time() - began < 2.5 else page())
"""
    port = free_port()
    seen = await watch(agent, code, port, error_grace_s=0.5)
    assert isinstance(seen[-1], Ready)
    assert seen[-1].with_errors
    async with asyncio.timeout(20):
        while seen[-1].with_errors:
            seen = await updates(agent, port=port, timeout_s=15.0, error_grace_s=0.5)
    assert isinstance(seen[-1], Ready)
