"""`tillsync-service health`: what a container's check and a deployment's gate ask."""

import socket

import grpc
import grpc.aio
import pytest
from cryptography import x509
from grpc_health.v1.health import aio as health_aio
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server

from support.certificates import a_certificate
from support.operators import Shell


@pytest.fixture
async def serving():
    """Serves health with these statuses, on a port of its own, with TLS if there is a pair."""
    servers = []

    async def serve(statuses, pair=None):
        health = health_aio.HealthServicer()
        for name, status in statuses.items():
            await health.set(name, HealthCheckResponse.ServingStatus.Value(status))
        server = grpc.aio.server()
        add_HealthServicer_to_server(health, server)
        address = "127.0.0.1:0"
        port = (
            server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
            if pair
            else server.add_insecure_port(address)
        )
        await server.start()
        servers.append(server)
        return port

    yield serve
    for server in servers:
        await server.stop(None)


async def asked(*arguments, **settings):
    """`health` on a machine with these settings, where nobody named another service."""
    ended = await Shell("", "", settings).run("health", *arguments)
    return ended.status, ended.out.strip() or ended.err.strip()


async def test_a_container_knows_itself_well_without_any_flag(serving):
    """The service listens on every address of its container: the check asks it there."""
    port = await serving({"": "SERVING"})

    assert await asked(TILLSYNC_LISTEN=f"0.0.0.0:{port}", TILLSYNC_ALLOW_PLAINTEXT="true") == (
        0,
        "SERVING",
    )


@pytest.mark.parametrize("name", ["sync.example.com", "*.example.com"])
async def test_a_service_with_tls_is_known_by_its_certificate(serving, tmp_path, name):
    """A certificate is for the name that tills use, and not for loopback: the check of the same
    machine trusts that very certificate, and no other one."""
    key, certificate = a_certificate(x509.DNSName(name))
    other = tmp_path / "other.pem"
    other.write_bytes(a_certificate(x509.DNSName(name))[1])
    own = tmp_path / "own.pem"
    own.write_bytes(certificate)
    port = await serving({"": "SERVING"}, (key, certificate))
    settings = {"TILLSYNC_LISTEN": f"0.0.0.0:{port}", "TILLSYNC_TLS_KEY": "key.pem"}

    assert await asked(TILLSYNC_TLS_CERTIFICATE=str(own), **settings) == (0, "SERVING")
    assert (await asked(TILLSYNC_TLS_CERTIFICATE=str(other), **settings))[0] == 1


async def test_each_of_healths_services_has_its_own_answer(serving):
    """The database is away: the service is alive, so it is not restarted, and not ready, so no till
    is sent to it."""
    port = await serving({"liveness": "SERVING", "readiness": "NOT_SERVING"})
    address = f"127.0.0.1:{port}"

    assert await asked("liveness", "--service", address) == (0, "SERVING")
    status, said = await asked("readiness", "--service", address)
    assert (status, "NOT_SERVING" in said) == (1, True)
    assert (await asked("liveliness", "--service", address))[0] == 1


async def test_nobody_there_is_said_within_the_timeout():
    """A port that takes connections and says nothing: the check ends, and says so."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"127.0.0.1:{mute.getsockname()[1]}"

        status, said = await asked("--service", address, "--timeout", "0.5")

    assert status == 1
    assert address in said
