"""Readiness with real servers and all their traps: nothing but a whole answer below 500 counts."""

import asyncio
import socket
import time

import pytest

from shared.agent.protocol import (
    Answering,
    Exited,
    JobSpec,
    Listening,
    ReadinessUpdate,
    Ready,
    ReadySpec,
    ReadyTimeout,
    Waiting,
)

from .world import RunningAgent

# A server that answers each connection with what `answer` gives, and helpers to play the tricks of real ones.
PRELUDE = """
import socket, sys, threading, time
PORT = int(sys.argv[1])
def listen(port=PORT, host='127.0.0.1', family=socket.AF_INET):
    s = socket.socket(family); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((host, port)); s.listen(16); return s
def page(status='200 OK', body=b'<p>hello', kind='text/html'):
    return (f'HTTP/1.1 {status}\\r\\nContent-Type: {kind}\\r\\nContent-Length: {len(body)}\\r\\n\\r\\n').encode() + body
def request(c):
    data = b''
    while b'\\r\\n\\r\\n' not in data:
        part = c.recv(4096)
        if not part: return data
        data += part
    return data
def serve(s, answer=lambda r: page()):
    while True:
        c, _ = s.accept()
        r = request(c)
        if r: c.sendall(answer(r))
        c.close()
def background(s, answer=lambda r: page()):
    threading.Thread(target=serve, args=(s, answer), daemon=True).start()
"""


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def watch(agent: RunningAgent, code: str, port: int, **spec: object) -> list[ReadinessUpdate]:
    """Runs a server and gives all updates, the final one last."""
    argv = ("{python}", "-c", PRELUDE + code, str(port))
    await agent.client.start_job("dev", JobSpec(argv=argv))
    return await updates(agent, **{"port": port, "timeout_s": 15.0, **spec})


async def updates(agent: RunningAgent, **spec: object) -> list[ReadinessUpdate]:
    """All updates of a job that runs."""
    async with asyncio.timeout(30):
        return [update async for update in agent.client.ready("dev", ReadySpec(**spec))]  # type: ignore[arg-type]


async def test_a_plain_server_is_ready(agent: RunningAgent) -> None:
    """Listening, then ready; the request carried the Host and Accept that dev servers want."""
    port = free_port()
    code = "def answer(r):\n    print(r.decode(), flush=True)\n    return page()\nserve(listen(), answer)"
    seen = await watch(agent, code, port)

    assert isinstance(seen[0], Listening)
    final = seen[-1]
    assert isinstance(final, Ready)
    assert (final.port, final.host, final.status) == (port, "127.0.0.1", 200)
    assert 0 < final.listening_s <= final.first_response_s <= final.elapsed_s
    asked = [line.text async for line in agent.client.log("dev")]
    assert asked[0] == "GET / HTTP/1.1"
    assert f"Host: localhost:{port}" in asked
    assert "Accept: text/html,*/*" in asked


async def test_a_port_that_is_tried_and_closed_is_not_ready(agent: RunningAgent) -> None:
    """Vite and Gatsby open the port to see whether it is free, and close it; ready is only who serves it later."""
    code = """
s = listen(); time.sleep(0.3); s.close(); time.sleep(0.4)
open('serving','w').close(); serve(listen())
"""
    seen = await watch(agent, code, free_port())

    assert isinstance(seen[-1], Ready)
    assert seen[-1].first_response_s > 0.7
    assert len([update for update in seen if isinstance(update, Listening)]) == 2


async def test_a_request_that_hangs_on_a_closed_port_is_let_go(agent: RunningAgent) -> None:
    """A port probe may take our connection, never answer, and wait for it to end before the real server starts."""
    code = """
s = listen(); c, _ = s.accept(); s.close()
while c.recv(4096): pass          # blocks until we let go
serve(listen())
"""
    seen = await watch(agent, code, free_port())

    assert isinstance(seen[-1], Ready)
    assert seen[-1].elapsed_s < 5


async def test_a_request_to_a_replaced_socket_is_asked_again(agent: RunningAgent) -> None:
    """The port closes and opens at once with another socket: the connection to the first is never answered."""
    code = "s = listen(); c, _ = s.accept(); request(c); s.close(); serve(listen())"
    seen = await watch(agent, code, free_port())

    assert isinstance(seen[-1], Ready)
    assert seen[-1].elapsed_s < 5


async def test_dropped_connections_are_asked_again(agent: RunningAgent) -> None:
    """Next accepts and drops for a while; a body that breaks off is no answer either."""
    code = """
s = listen()
for cut in (b'', b'HTTP/1.1 200 OK\\r\\n', b'HTTP/1.1 200 OK\\r\\nContent-Length: 99\\r\\n\\r\\nhalf'):
    c, _ = s.accept(); request(c); c.sendall(cut); c.close()
print('now', flush=True); serve(s)
"""
    seen = await watch(agent, code, free_port())

    assert isinstance(seen[-1], Ready)
    assert [line.text async for line in agent.client.log("dev")] == ["now"]


async def test_a_slow_first_answer_is_one_request(agent: RunningAgent) -> None:
    """The first compile is waited for with one request, with a word at least every second."""
    code = """
n = 0
def answer(r):
    global n; n += 1; print('request', n, flush=True); time.sleep(2.2); return page()
serve(listen(), answer)
"""
    seen = await watch(agent, code, free_port())

    assert isinstance(seen[-1], Ready)
    assert seen[-1].elapsed_s > 2.2
    waits = [update for update in seen if isinstance(update, Waiting)]
    assert len(waits) >= 2
    assert all(update.listening for update in waits)
    assert [line.text async for line in agent.client.log("dev")] == ["request 1"]


async def test_an_exit_is_known_at_once_whatever_it_printed(agent: RunningAgent) -> None:
    """Express prints "listening" and exits 0 on a taken port: that is an exit, within a moment."""
    code = "print('listening on', PORT, flush=True); s = listen(); time.sleep(0.5); print(time.time(), flush=True)"
    seen = await watch(agent, code, free_port())
    told_s = time.time()

    assert seen[-1] == Exited(exit_code=0, signal=None, elapsed_s=seen[-1].elapsed_s)
    exiting_s = float([line.text async for line in agent.client.log("dev")][-1])
    assert told_s - exiting_s < 1


async def test_steady_errors_end_it_and_passing_ones_do_not(agent: RunningAgent) -> None:
    """5xx is asked again; for longer than the grace it is shown as it is, and with a later answer it is ready as such."""
    failing = "serve(listen(), lambda r: page('500 Internal Server Error'))"
    seen = await watch(agent, failing, free_port(), error_grace_s=0.8)
    assert any(isinstance(update, Answering) and update.status == 500 for update in seen)
    assert isinstance(seen[-1], Ready)
    assert (seen[-1].status, seen[-1].with_errors, seen[-1].detail) == (500, True, "/ answered 500")

    await agent.client.stop_job("dev")
    port = free_port()
    passing = """
n = 0
def answer(r):
    global n; n += 1; return page('503 Busy') if n < 3 else page('404 No')
serve(listen(), answer)
"""
    await agent.client.start_job("later", JobSpec(argv=("{python}", "-c", PRELUDE + passing, str(port))))
    spec = ReadySpec(port=port, timeout_s=15)
    later = [update async for update in agent.client.ready("later", spec)]
    assert isinstance(later[-1], Ready)
    assert not later[-1].with_errors
    assert later[-1].status == 404


async def test_ports_that_do_not_speak_http_block_nobody(agent: RunningAgent) -> None:
    """Ten silent ports and one debugger that says 400 stand beside the server on a port of its own choice."""
    port, own, debug = free_port(), free_port(), free_port()
    code = f"""
silent = [listen(0) for _ in range(6)]
background(listen({debug}), lambda r: page('400 Bad Request', b'WebSockets request was expected', 'text/plain'))
time.sleep(0.3); serve(listen({own}))
"""
    seen = await watch(agent, code, port, other_port_grace_s=0.3)

    assert isinstance(seen[-1], Ready)
    assert (seen[-1].port, seen[-1].status) == (own, 200)


async def test_the_preferred_port_wins_over_an_earlier_one(agent: RunningAgent) -> None:
    """An API beside the dev server answers first; the page is on the port that was asked for."""
    port, api = free_port(), free_port()
    code = f"background(listen({api})); time.sleep(0.4)\nserve(listen(), lambda r: (time.sleep(1), page())[1])"
    seen = await watch(agent, code, port, other_port_grace_s=1.0)

    assert isinstance(seen[-1], Ready)
    assert seen[-1].port == port


async def test_a_process_with_nothing_listening_times_out(agent: RunningAgent) -> None:
    """As nodemon after a crash: a time-out with a reason, never ready."""
    seen = await watch(
        agent, "print('app crashed - waiting for file changes'); time.sleep(60)", free_port(), timeout_s=4.0
    )

    assert isinstance(seen[-1], ReadyTimeout)
    assert (seen[-1].port, seen[-1].reason) == (None, "It never listened on a port.")
    assert any(isinstance(update, Waiting) and not update.listening for update in seen)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("s = listen(); time.sleep(60)", "has had no answer"),
        ("s = listen()\nwhile True: s.accept()[0].close()", "drops each connection"),
        ("serve(listen(), lambda r: page('500 No'))", "answered with status 500 last"),
        ("s = listen(); time.sleep(0.3); s.close(); time.sleep(60)", "nothing listens now"),
    ],
)
async def test_a_timeout_says_how_far_it_got(agent: RunningAgent, code: str, reason: str) -> None:
    """The reason is one that a person can act on."""
    seen = await watch(agent, code, free_port(), timeout_s=1.2)

    assert isinstance(seen[-1], ReadyTimeout)
    assert reason in seen[-1].reason


async def test_a_redirect_counts_and_is_not_followed(agent: RunningAgent) -> None:
    """3xx is an answer; whoever it points to is not asked."""
    code = """
answer = b'HTTP/1.1 302 Found\\r\\nLocation: http://192.0.2.1/\\r\\nContent-Length: 0\\r\\n\\r\\n'
serve(listen(), lambda r: answer)
"""
    seen = await watch(agent, code, free_port())

    assert isinstance(seen[-1], Ready)
    assert seen[-1].status == 302


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6 loopback")
async def test_a_server_on_ipv6_only_is_found_there(agent: RunningAgent) -> None:
    """Vite listens on ::1 alone where "localhost" means that; `host` tells the proxy."""
    seen = await watch(agent, "serve(listen(host='::1', family=socket.AF_INET6))", free_port())

    assert isinstance(seen[-1], Ready)
    assert seen[-1].host == "::1"


async def test_a_grandchild_that_serves_is_found(agent: RunningAgent) -> None:
    """The port belongs to the tree, not to the first process: npm runs sh, sh runs the server."""
    code = """
import subprocess
child = [sys.executable, '-c', sys.orig_argv[2], sys.argv[1], 'child']
subprocess.run(child, start_new_session=True) if len(sys.argv) < 3 else serve(listen())
"""
    seen = await watch(agent, code, free_port())

    assert isinstance(seen[-1], Ready)


async def test_ports_of_others_do_not_count(agent: RunningAgent) -> None:
    """A server that is not of this job, though on the preferred port, proves nothing."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        seen = await watch(agent, "time.sleep(60)", other.getsockname()[1], timeout_s=1.0)

    assert isinstance(seen[-1], ReadyTimeout)
    assert not any(isinstance(update, Listening) for update in seen)
