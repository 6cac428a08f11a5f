"""The line between till and head office is private, and says what is wrong when it cannot be."""

import ipaddress
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from support.scripted_service import ScriptedService
from support.till import Till, until
from tillsync_agent import config, link


def a_certificate(valid_from: timedelta, valid_to: timedelta) -> tuple[bytes, bytes]:
    """Key and self-signed certificate of 127.0.0.1 in PEM; times are relative to now."""
    now = datetime.now(UTC)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "head office")])
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now + valid_from)
        .not_valid_after(now + valid_to)
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return (
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
        certificate.public_bytes(serialization.Encoding.PEM),
    )


def a_service(key: bytes, certificate: bytes) -> ScriptedService:
    return ScriptedService(credentials=grpc.ssl_server_credentials([(key, certificate)]))


DAY = timedelta(days=1)


async def test_sales_travel_over_tls_with_a_chain_of_the_shops_own(tmp_path):
    """The retailer runs its own certificate authority: the till trusts it and sends."""
    key, certificate = a_certificate(-DAY, DAY)
    (tmp_path / "ca.pem").write_bytes(certificate)
    async with a_service(key, certificate) as service:
        till = Till(tmp_path, service, ca_file=str(tmp_path / "ca.pem"))
        till.record()
        await till.drained()
        till.close()

    assert len(service.stored) == 1


async def test_a_stranger_with_another_certificate_gets_nothing(tmp_path):
    """Somebody on the way shows a certificate of their own: no sale and no secret leaves."""
    key, certificate = a_certificate(-DAY, DAY)
    (tmp_path / "ca.pem").write_bytes(a_certificate(-DAY, DAY)[1])
    async with a_service(key, certificate) as service:
        till = Till(tmp_path, service, ca_file=str(tmp_path / "ca.pem"))
        till.record()
        async with till.agent():
            await until(lambda: till.note.failures_in_a_row >= 2)
        assert (till.waiting, service.tokens, service.stored) == (1, [], {})
        assert "clock" not in till.note.last_error
        till.close()


@pytest.mark.parametrize("span", [(-3 * DAY, -2 * DAY), (2 * DAY, 3 * DAY)], ids=["past", "future"])
async def test_a_certificate_of_another_day_points_at_the_clock(tmp_path, span):
    """The till's clock is years off, so that no certificate is valid: the sales wait, and status
    says to look at the clock instead of a line about SSL (I10's one exception)."""
    key, certificate = a_certificate(*span)
    (tmp_path / "ca.pem").write_bytes(certificate)
    async with a_service(key, certificate) as service:
        till = Till(tmp_path, service, ca_file=str(tmp_path / "ca.pem"))
        till.record()
        async with till.agent():
            await until(lambda: till.note.last_error)

    assert "is this device's clock right?" in till.note.last_error
    assert f"{datetime.now(UTC):%Y-%m-%d}" in till.note.last_error
    assert till.waiting == 1
    till.close()


async def test_plaintext_stays_on_this_machine_unless_it_is_asked_for(tmp_path, monkeypatch):
    """Head office is across the internet and nobody configured TLS: the agent does not send
    sales that everybody could read."""
    used = []
    monkeypatch.setattr(grpc.aio, "insecure_channel", lambda *_a, **_k: used.append("plaintext"))
    monkeypatch.setattr(grpc.aio, "secure_channel", lambda *_a, **_k: used.append("tls"))
    for service, plaintext in (
        ("sync.example.com:443", False),
        ("192.0.2.7:7070", False),
        ("localhost.example.com:443", False),
        ("127.0.0.1:7070", False),
        ("[::1]:7070", False),
        ("localhost:7070", False),
        ("192.0.2.7:7070", True),
    ):
        link.open_channel(config.load(tmp_path, {}, service=service, plaintext=plaintext))

    assert used == ["tls"] * 3 + ["plaintext"] * 4
