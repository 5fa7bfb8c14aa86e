"""A NATS server with a certificate of one's own authority: believed where that is named, refused elsewhere."""

import datetime
import subprocess
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from deploy.local.nats import find_nats_server
from deploy.local.ports import LOOPBACK, free_port
from shared.errors import Invalid, Unavailable
from shared.jetstream import connection
from shared.jetstream.connection import connect
from tests.deploy.waiting import eventually

pytestmark = pytest.mark.live

DAY = datetime.timedelta(days=1)
Key = ec.EllipticCurvePrivateKey


def _certificate(name: str, key: Key, issuer: str, issuer_key: Key, *, authority: bool) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    usage = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - DAY)
        .not_valid_after(now + DAY)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=True, key_cert_sign=authority, crl_sign=authority, **usage), critical=True
        )
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(LOOPBACK))]), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of a server that speaks TLS, and the file with its authority."""
    folder = tmp_path_factory.mktemp("tls")
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = _certificate("test authority", authority_key, "test authority", authority_key, authority=True)
    own = _certificate("nats", key, "test authority", authority_key, authority=False)
    pem = serialization.Encoding.PEM
    (folder / "ca.crt").write_bytes(authority.public_bytes(pem))
    (folder / "tls.crt").write_bytes(own.public_bytes(pem))
    private = (pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "tls.key").write_bytes(key.private_bytes(*private))
    port = free_port()
    command = [str(find_nats_server()), "-a", LOOPBACK, "-p", str(port), "--tls"]
    command += ["--tlscert", str(folder / "tls.crt"), "--tlskey", str(folder / "tls.key")]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    yield f"tls://{LOOPBACK}:{port}", folder / "ca.crt"
    server.terminate()
    server.wait(10)


async def test_own_authority(served: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """With the authority named the server is believed, and messages pass."""
    url, authority = served
    monkeypatch.setenv("DRAPE_NATS_CA_FILE", str(authority))

    async def answered() -> bool:
        try:
            client = await connect(url, "tls-test", seed="")
        except Unavailable:  # it has not started yet
            return False
        await client.flush()
        await client.close()
        return True

    await eventually(answered, timeout_s=30)


async def test_unknown_authority(served: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it the same server is refused, and the message says that it is for its certificate."""
    monkeypatch.delenv("DRAPE_NATS_CA_FILE", raising=False)
    monkeypatch.setattr(connection, "FIRST_CONNECTION_S", 5.0)

    with pytest.raises(Unavailable, match=r"(?i)certificate"):
        await connect(served[0], "tls-test", seed="")


@pytest.mark.parametrize("content", [None, "no certificate"])
async def test_bad_authority(content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is missing, or holds something else, is named together with the setting, before any connection."""
    path = tmp_path / "ca.crt"
    if content is not None:
        path.write_text(content)
    monkeypatch.setenv("DRAPE_NATS_CA_FILE", str(path))

    with pytest.raises(Invalid, match=r"DRAPE_NATS_CA_FILE names .*ca\.crt"):
        await connect("tls://127.0.0.1:1", "tls-test", seed="")
