"""The gateway's side of a tunnel: over TLS, refused, and answered by something that is no agent."""

import asyncio
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import uvloop
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from msgspec.structs import replace

from services.gateway.adapters import tunnels
from services.gateway.adapters.preview_target import Through, Upstream
from services.gateway.adapters.tunnels import TunnelConnector, TunnelRefused
from services.gateway.adapters.upstreams import Upstreams
from shared.reach import Reach
from tests.gateway.proxy_stage import FAST, LOOPBACK, SECRET, VM, raw_server
from tests.gateway.proxy_stage import tunnels as agent_tunnels

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def asked(through: Through, port: int) -> AsyncIterator[aiohttp.ClientResponse]:
    """A request to what listens on `port` inside the VM."""
    upstream = Upstream("a", LOOPBACK, port, "1", through)
    async with (
        Upstreams(FAST, SECRET) as upstreams,
        upstreams.session(upstream) as session,
        session.get(f"http://{LOOPBACK}:{port}/") as answer,
    ):
        yield answer


def answering(text: bytes) -> Talk:
    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(text)
        await writer.drain()

    return talk


def reached(port: int) -> Through:
    return Through(VM, LOOPBACK, port, 7, Reach(tunnel=True))


async def test_an_agents_refusal_is_told_with_its_code() -> None:
    async with AsyncExitStack() as stack:
        through = await agent_tunnels(stack)
        with pytest.raises(TunnelRefused, match=r"No job of this VM listens on port 1\b") as refused:
            async with asked(through, 1):
                pass
    assert refused.value.code == "port_not_listening"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 5\r\n\r\noops!", "status 502"),
        (b"HTTP/1.1 200 OK\r\n\r\nno length at all", "status 200"),
        (
            b"HTTP/1.1 401 No\r\nContent-Length: 41\r\n\r\n" + b'{"code":"unauthorized","message":"Wrong."}'[:41],
            "status 401",
        ),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "status 0"),
        (b"HTTP/1.1 101 Half", "status 101"),
        (b"x" * (tunnels._REPLY_BYTES_MAX + 2), "status 0"),
    ],
    ids=["a proxy's error", "no length", "half a body", "no HTTP", "half a head", "without end"],
)
async def test_what_is_no_agents_answer_is_no_tunnel(answer: bytes, words: str) -> None:
    async with raw_server(answering(answer)) as port:
        with pytest.raises(TunnelRefused, match=words):
            async with asked(reached(port), 80):
                pass


async def test_an_agent_that_says_nothing_is_waited_for_so_long() -> None:
    async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async with (
        raw_server(silent) as port,
        Upstreams(replace(FAST, connect_timeout_s=0.1), SECRET) as upstreams,
        upstreams.session(Upstream("a", LOOPBACK, 80, "1", reached(port))) as session,
    ):
        with pytest.raises(aiohttp.ConnectionTimeoutError):
            await session.get(f"http://{LOOPBACK}/")


@pytest.mark.parametrize("before", [b"", b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"])
async def test_an_agent_that_is_being_woken_is_dialled_again(before: bytes) -> None:
    """First nobody is there, or what stands before it says so; then the whole body arrives, once."""
    dialled, bodies = 0, []

    async def waking(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal dialled
        dialled += 1
        if dialled <= 2:
            writer.write(before)
            return
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"Content-Length: 4" in head
        bodies.append(await reader.readexactly(4))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")

    async with (
        raw_server(waking) as port,
        Upstreams(replace(FAST, agent_wait_s=20.0), SECRET) as upstreams,
        upstreams.session(Upstream("a", LOOPBACK, 80, "1", reached(port))) as session,
        session.post(f"http://{LOOPBACK}/", data=b"body") as answer,
    ):
        assert await answer.text() == "hi"
    assert (dialled, bodies) == (3, [b"body"])


async def test_what_comes_with_the_101_is_not_lost() -> None:
    """A dev server that speaks at once, and an answer and its tunnel in one packet."""
    body = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
    head = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
    async with raw_server(answering(head + body)) as port, asked(reached(port), 80) as answer:
        assert await answer.text() == "hi"


async def test_no_header_can_be_smuggled_into_the_request() -> None:
    reach = Reach(tunnel=True, headers=(("x", "a\r\nHost: other"),))
    with pytest.raises(ValueError, match="not printable"):
        TunnelConnector(Through(VM, LOOPBACK, 1, 7, reach), 80, SECRET, FAST)


# --- TLS ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Files: a certificate for loopback that has signed itself, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "agent")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(LOOPBACK))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "cert.pem").write_bytes(made.public_bytes(pem))
    plain = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(plain)
    return folder / "cert.pem", folder / "key.pem"


async def over_tls(certificate: tuple[Path, Path]) -> None:
    """Pages, 4 MiB either way, and a WebSocket, through an agent behind TLS."""

    async def handler(request: web.Request) -> web.StreamResponse:
        if request.headers.get("Upgrade"):
            socket = web.WebSocketResponse()
            await socket.prepare(request)
            async for message in socket:
                await socket.send_str(message.data)
            return socket
        return web.Response(body=await request.read() or b"hi")

    async with AsyncExitStack() as stack:
        inside = await served(stack, handler)
        agent = await agent_tunnels(stack)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*certificate)
        outside = await behind_tls(stack, agent.port, context)
        through = replace(agent, port=outside, reach=replace(agent.reach, tls=True))
        upstreams = await stack.enter_async_context(Upstreams(FAST, SECRET))
        session = await stack.enter_async_context(upstreams.session(Upstream("a", LOOPBACK, inside, "1", through)))
        url = f"http://{LOOPBACK}:{inside}/"
        async with session.get(url) as answer:
            assert await answer.read() == b"hi"
        sent = bytes(range(256)) * 4096 * 4

        async def body() -> AsyncIterator[bytes]:
            for start in range(0, len(sent), 65536):
                yield sent[start : start + 65536]

        async with session.post(url, data=body()) as answer:
            assert await answer.read() == sent
        async with session.ws_connect(url) as socket:
            await socket.send_str("hello")
            assert await socket.receive_str(timeout=20) == "hello"


async def served(stack: AsyncExitStack, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> int:
    app = web.Application(client_max_size=1 << 26)
    app.add_routes([web.route("*", "/", handler)])
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, LOOPBACK, 0).start()
    return int(runner.addresses[0][1])


async def behind_tls(stack: AsyncExitStack, port: int, context: ssl.SSLContext) -> int:
    """What a provider's edge does: takes TLS off, and passes the bytes on to the agent."""

    async def passed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection(LOOPBACK, port)

        async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            try:
                while data := await source.read(65536):
                    target.write(data)
                    await target.drain()
            except ConnectionError:
                return
            finally:
                target.close()

        await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer))

    server = await asyncio.start_server(passed, LOOPBACK, 0, ssl=context)
    stack.callback(server.close)
    return int(server.sockets[0].getsockname()[1])


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_an_agent_behind_tls(
    run: Callable[..., None], certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    tunnels.trusted.cache_clear()
    try:
        run(over_tls(certificate))
    finally:
        tunnels.trusted.cache_clear()


def test_an_agent_behind_a_certificate_that_nobody_vouches_for(
    certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    tunnels.trusted.cache_clear()
    with pytest.raises(aiohttp.ClientOSError, match="CERTIFICATE_VERIFY_FAILED"):
        asyncio.run(over_tls(certificate))
