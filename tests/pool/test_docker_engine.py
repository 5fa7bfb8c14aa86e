"""A Docker engine as the provider sees it, without one: how it is spoken to, and what is believed of its answers."""

import datetime
import ssl
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from services.pool.adapters import docker_guest, docker_vm
from services.pool.adapters.docker_config import DockerConfig
from services.pool.adapters.docker_engine import Container, Engine, Version, check_api
from services.pool.app import from_environment
from services.pool.ports import ProviderError, VmSpec
from tests.pool.docker_stage import Answers

VERSION = b'{"ApiVersion": "1.41", "Version": "20.10"}'
INFO = b'{"Architecture": "x86_64", "NCPU": 4, "Runtimes": {"runsc": {}}}'


@pytest.fixture
def answers() -> Iterator[Answers]:
    answers = Answers({".*/info": (200, INFO), ".*/version": (200, VERSION)})
    yield answers
    answers.stop()


def certificate(folder: Path, name: str, issuer: Path | None) -> None:
    """`name`.pem with its key beside it, signed by `issuer`'s, else by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    signer = key
    subject = issuer_name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    if issuer is not None:
        signing = serialization.load_pem_private_key(issuer.with_suffix(".key").read_bytes(), None)
        assert isinstance(signing, ec.EllipticCurvePrivateKey)
        signer, issuer_name = signing, x509.load_pem_x509_certificate(issuer.read_bytes()).subject
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(issuer_name, subject, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(
        now + datetime.timedelta(days=1)
    )
    builder = builder.add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    made = builder.add_extension(names, critical=False).sign(signer, hashes.SHA256())
    (folder / f"{name}.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / f"{name}.key").write_bytes(key.private_bytes(*form))


async def test_an_engine_elsewhere_is_spoken_to_by_certificates(answers: Answers, tmp_path: Path) -> None:
    """With a folder of certificates, `tcp://` is TLS with both sides' names checked; without, the engine can't be used."""
    certificate(tmp_path, "ca", None)
    certificate(tmp_path, "cert", tmp_path / "ca.pem")
    (tmp_path / "key.pem").write_bytes((tmp_path / "cert.key").read_bytes())
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(tmp_path / "ca.pem"))
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "cert.key")
    context.verify_mode = ssl.CERT_REQUIRED
    answers.socket = context.wrap_socket(answers.socket, server_side=True)
    url = answers.url.replace("127.0.0.1", "localhost")
    known, stranger = Engine(url, tls_dir=str(tmp_path), timeout_s=20), Engine(url, timeout_s=20)
    try:
        assert (await known.ready()).n_cpu == 4
        with pytest.raises(ProviderError) as raised:
            await stranger.ready()
    finally:
        await known.close()
        await stranger.close()

    assert raised.value.code == "provider_unavailable"


async def test_an_engine_that_was_away_is_looked_at_anew(answers: Answers) -> None:
    """What was set up on it counts no longer once it has not answered: a restart takes firewall rules away."""
    engine = Engine(answers.url, timeout_s=20)
    try:
        await engine.ready()
        engine.prepared["network"] = "made"
        answers.canned = {".": (200, b"<html>")}
        with pytest.raises(ProviderError):
            await engine.rows({})
        answers.canned = {".*/info": (200, INFO.replace(b"4", b"8")), ".*/version": (200, VERSION)}

        assert engine.prepared == {}
        assert (await engine.ready()).n_cpu == 8
    finally:
        await engine.close()


@pytest.mark.parametrize(
    "rows",
    [b"{}", b'[{"Id": 5}]', b'[{"Id": "a"}]', b'[{"Id": "a", "State": "running", "Created": "x"}]', b"[[]]", b"null"],
)
async def test_half_a_list_is_none(answers: Answers, rows: bytes) -> None:
    """A list in which one row is not what it should be is no answer; the rest of it is not used."""
    good = b'{"Id": "b", "State": "running", "Created": 1}'
    answers.canned = {
        ".*/version": (200, VERSION),
        ".*/containers/json": (200, rows[:-1] + b"," + good + b"]" if rows[-2:] == b"}]" else rows),
    }
    engine = Engine(answers.url, timeout_s=20)
    try:
        with pytest.raises(ProviderError) as raised:
            await engine.rows({})
    finally:
        await engine.close()

    assert (raised.value.code, raised.value.retryable) == ("provider_unavailable", True)


@pytest.mark.parametrize(
    ("api", "code"), [("1.40", "provider_too_old"), ("0.9", "provider_too_old"), ("x", "provider_unavailable")]
)
def test_versions_are_compared_as_numbers(api: str, code: str) -> None:
    """1.9 is older than 1.41, and what is no version is no engine's."""
    check_api(Version(api_version="1.41", version=""), "")
    check_api(Version(api_version="1.100", version=""), "")
    with pytest.raises(ProviderError) as raised:
        check_api(Version(api_version=api, version=""), "")
    assert raised.value.code == code


async def test_a_url_that_is_none_is_named() -> None:
    """A host without a scheme is refused with the forms that there are."""
    engine = Engine("builder:2375")
    with pytest.raises(ProviderError, match="unix:///path"):
        await engine.ready()
    await engine.close()


def test_a_container_is_asked_for_without_the_token() -> None:
    """Limits and confinement are in the request, the token is not; a quota or a published port where there are such."""
    spec = VmSpec(vm_id="one", token="secret-token", memory_mb=700, cpu_cores=1.5, pids_max=99, labels={"pool": "main"})
    place = docker_vm.Place(home="h", network="n", runtime="runsc", published=True, publish_ip="127.0.0.1", quota=True)

    body = docker_vm.body_of(spec, DockerConfig(disk_mb=300), place, "image", 12.0)

    host = body["HostConfig"]
    assert "secret-token" not in msgspec.json.encode(body).decode()
    assert (host["Memory"], host["MemorySwap"], host["NanoCpus"], host["PidsLimit"]) == (
        700 << 20,
        700 << 20,
        1.5e9,
        99,
    )
    assert (host["CapDrop"], host["ReadonlyRootfs"], host["Runtime"]) == (["ALL"], True, "runsc")
    assert host["Mounts"][0]["VolumeOptions"]["DriverConfig"]["Options"] == {"size": "300M"}
    assert "/vm" not in host["Tmpfs"]
    assert host["PortBindings"] == {"4711/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]}
    assert body["Labels"] == {
        "drape.label.pool": "main",
        "drape.home": "h",
        "drape.vm": "one",
        "drape.created": "12.000",
    }


@pytest.mark.parametrize(
    ("state", "booting", "seen"),
    [
        ("running", False, "running"),
        ("paused", False, "suspended"),
        ("created", True, "running"),
        ("created", False, "stopped"),
        ("exited", True, "stopped"),
        ("dead", False, "stopped"),
        ("removing", False, "stopped"),
    ],
)
def test_states_of_containers(state: str, booting: bool, seen: str) -> None:
    """What a container's state says of its VM, while somebody may be at work on it and otherwise."""
    row = Container(id="a", state=state, created=1.0, labels={"drape.vm": "one"})

    assert docker_vm.state_of(row, booting=booting) == seen


def test_rules_refuse_what_is_private_and_let_pass_what_is_named() -> None:
    """In this order: answers, the resolver, what is allowed, and then nothing private or of the host's."""
    lines = docker_guest.rules("br", "key", ["10.1.2.3/32"], "DROP").splitlines()

    through = [line for line in lines if line.startswith("-A DRAPE-key -")]
    assert "ESTABLISHED" in through[0]
    assert through.index("-A DRAPE-key -d 10.1.2.3/32 -j RETURN") < through.index("-A DRAPE-key -d 10.0.0.0/8 -j DROP")
    assert "-A DRAPE-key -d 169.254.0.0/16 -j DROP" in through
    assert [line for line in lines if line.startswith("-A DRAPE-key-HOST")][-1] == "-A DRAPE-key-HOST -j DROP"


def test_the_pool_takes_the_provider_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """`docker` is a provider's name, and a wrong one is refused."""
    monkeypatch.setenv("DRAPE_POOL_PROVIDER", "docker")
    assert from_environment().definition.name == "pool"


def test_homes_differ_by_folder() -> None:
    """Two deployments on one engine see their own VMs, a named home goes first."""
    one, other = docker_vm.home_key("", "/a"), docker_vm.home_key("", "/b")
    assert one != other
    assert docker_vm.home_key("mine", "/a") == "mine"
