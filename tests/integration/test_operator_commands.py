"""An operator keeps a running service in order from a shell."""

import ipaddress
import re
import shlex
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from support.fleet import a_secret, hash_of
from support.operators import Shell, shell_at
from tillsync.v1 import admin_service_pb2 as admin_pb
from tillsync.v1 import device_service_pb2 as pb
from tillsync.v1.admin_service_pb2_grpc import (
    AdminServiceServicer,
    add_AdminServiceServicer_to_server,
)
from tillsync.v1.device_service_pb2_grpc import DeviceServiceStub
from tillsync_service.host_commands import _ENROLMENT_HELP
from tillsync_service.operator import commands
from tillsync_service.operator.client import Service, Target

CODE = re.compile(r"\w{4}(-\w{4}){3}\n")
NOBODY = "018f2a5e-7c3b-7d10-8a4e-3b1c9d2e5f60"


@pytest.fixture
async def tenant(shell) -> str:
    """A tenant of the test's own."""
    return (await shell.run("tenants", "create", "-q", "My shops")).out.strip()


async def enrolled(shell: Shell, code: str, name: str) -> tuple[str, bytes]:
    """The id of a till that joined with the code, and its secret."""
    secret = a_secret()
    async with Service(Target(shell.address)) as service:
        stub: DeviceServiceStub = service.device
        request = pb.EnrollRequest(code=code, refresh_secret_hash=hash_of(secret), device_name=name)
        return (await stub.Enroll(request, timeout=20)).device_id, secret


async def test_from_nothing_to_an_enrolled_till_and_back(shell):
    """The operator makes a tenant, a store and a code in a script; a till joins, is listed, and
    is revoked when it is stolen."""
    tenant = (await shell.run("tenants", "create", "--quiet", "My shops")).out.strip()
    store = (
        await shell.run("stores", "create", "-q", "--tenant", tenant, "--code", "1", "Main street")
    ).out.strip()
    made = await shell.run("enrolment-code", "-q", "--tenant", tenant, "--store", store)
    device, _ = await enrolled(shell, made.out.strip(), "till 1")

    listed = await shell.run("devices", "list", "--tenant", tenant, "--store", store)
    revoked = await shell.run("devices", "revoke", "--tenant", tenant, device, "--json")
    cleared = await shell.run("devices", "clear-suspicion", "--tenant", tenant, device)

    assert CODE.fullmatch(made.out)
    assert listed.lines[0][:3] == [device, store, "till 1"]
    assert revoked.json["revoked_at"]
    assert cleared.status == 0


async def test_a_till_is_carried_to_another_store(shell, tenant):
    """The operator says where a till stands now, and it is listed there."""
    first = await shell.run("enrolment-code", "--tenant", tenant, "--new-store", "A", "--json")
    device, _ = await enrolled(shell, first.json["code"], "till 1")
    other = (
        await shell.run("stores", "create", "-q", "--tenant", tenant, "--code", "2", "B")
    ).out.strip()

    moved = await shell.run("devices", "move", device, "--tenant", tenant, "--store", other)
    listed = await shell.run("devices", "list", "--tenant", tenant, "--store", other)
    nowhere = await shell.run("devices", "move", device, "--tenant", tenant, "--store", NOBODY)

    assert moved.lines[0][:3] == listed.lines[0][:3] == [device, other, "till 1"]
    assert nowhere.status == 1
    assert "(NOT_FOUND)" in nowhere.err


async def test_a_newcomer_gets_a_code_with_one_command(shell):
    """Somebody who tries Tillsync out makes tenant, store and code at once, and a till joins."""
    made = (await shell.run("enrolment-code", "--new-store", "Main street", "--json")).json

    await enrolled(shell, made["code"], "till 1")
    stores = await shell.run("stores", "list", "--tenant", made["tenant_id"], "--json")

    assert [(s["store_id"], s["name"], s["code"]) for s in stores.json] == [
        (made["store_id"], "Main street", "1")
    ]


async def test_what_serve_prints_adds_tills_and_stores(shell):
    """Somebody has one till and wants a second, and a second shop: the commands that `serve` prints
    make them, in the tenant that there is."""
    printed = _ENROLMENT_HELP.format(program="tillsync-service", address=shell.address)
    lines = re.findall(r"^  tillsync-service (.*)$", printed, re.MULTILINE)
    made = (await shell.run(*shlex.split(lines[0]), "--json")).json
    for name in ("tenant_id", "store_id"):
        lines = [line.replace(name.upper(), made[name]) for line in lines]

    ended = [await shell.run(*shlex.split(line)) for line in lines[1:]]

    assert [(each.status, each.err) for each in ended] == [(0, "")] * 4
    second_till, second_store, _, stores = (each.lines for each in ended)
    assert second_till[0][:2] == [made["tenant_id"], made["store_id"]]
    assert second_store[0][0] == made["tenant_id"]
    assert sorted(line[1] for line in stores) == ["1", "2"]


async def test_a_further_store_joins_an_existing_tenant(shell, tenant):
    """The second shop gets its store and code with one command, too."""
    first = await shell.run("enrolment-code", "--tenant", tenant, "--new-store", "A")
    taken = await shell.run("enrolment-code", "--tenant", tenant, "--new-store", "B")
    second = await shell.run(
        "enrolment-code", "--tenant", tenant, "--new-store", "B", "--store-code", "2"
    )

    assert (first.status, taken.status, second.status) == (0, 1, 0)
    assert taken.err.count("\n") == 1
    assert "a store with the code '1'. (ALREADY_EXISTS) Give the new one" in taken.err
    assert "--store-code" in taken.err


async def test_a_code_ends_when_the_operator_said(shell, tenant):
    """A code for two hours is good for two hours."""
    before = datetime.now(UTC)
    made = await shell.run(
        "enrolment-code", "--tenant", tenant, "--new-store", "A", "--hours", "2", "--json"
    )

    ends = datetime.fromisoformat(made.json["expires_at"])
    assert timedelta(hours=2) <= ends - before < timedelta(hours=2, minutes=2)


async def test_long_lists_are_whole(shell, tenant, monkeypatch):
    """A chain with more shops than fit on a page sees all of them."""
    monkeypatch.setattr("tillsync_service.operator.commands.limits.MAX_PAGE_SIZE", 2)
    async with Service(Target(shell.address, token=shell.token)) as service:
        for number in range(5):
            await commands._make_store(service, tenant, f"{number}", f"Shop {number}")
        pages = [
            [store.code for store in page.stores]
            async for page in commands._pages(
                service, service.admin.ListStores, admin_pb.ListStoresRequest(tenant_id=tenant)
            )
        ]

    assert [len(page) for page in pages] == [2, 2, 1]
    assert sorted(code for page in pages for code in page) == list("01234")


async def test_an_operator_of_one_tenant_stays_in_it(service, shell, tenant):
    """Whoever looks after one retailer cannot see another, and is told so in one line."""
    limited = shell_at(service, tenant)
    other = (await shell.run("tenants", "create", "-q", "Others")).out.strip()

    own = await limited.run("stores", "list", "--tenant", tenant)
    refused = [
        await limited.run("tenants", "list"),
        await limited.run("stores", "list", "--tenant", other),
    ]

    assert own.status == 0
    for ended in refused:
        assert ended.status == 1
        assert ended.out == ""
        assert ended.err.count("\n") == 1
        assert "(PERMISSION_DENIED)" in ended.err


async def test_a_tenant_with_sales_to_keep_is_not_deleted(shell, tenant):
    """A slip does not remove a retailer: only a disposable tenant goes."""
    kept = await shell.run("tenants", "delete", tenant)
    disposable = await shell.run("tenants", "create", "-q", "--disposable", "Try")
    gone = await shell.run("tenants", "delete", disposable.out.strip(), "--json")

    assert (kept.status, gone.status) == (1, 0)
    assert "(STATE_FORBIDS)" in kept.err
    assert gone.json["events_removed"] == 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"TILLSYNC_OPERATOR_TOKEN": ""}, "$(tillsync-service operator-token)"),
        ({"TILLSYNC_OPERATOR_TOKEN": "abc"}, "$(tillsync-service operator-token)"),
        ({"TILLSYNC_OPERATOR_TOKEN": "ab\nc"}, "$(tillsync-service operator-token)"),
        ({"TILLSYNC_SERVICE_ADDRESS": "127.0.0.1:1"}, "No Tillsync service answers at 127.0.0.1:1"),
        ({"TILLSYNC_SERVICE_ADDRESS": "shop"}, "must be HOST:PORT"),
        ({"TILLSYNC_CA_FILE": "/nowhere.pem"}, "/nowhere.pem cannot be read"),
        ({"TILLSYNC_CA_FILE": "/etc/passwd"}, "TILLSYNC_CA_FILE"),
    ],
)
async def test_what_is_wrong_is_one_line_that_says_what_to_do(shell, settings, words):
    """A token or an address is wrong: the operator reads one line, and knows the next step."""
    shell.settings = settings

    ended = await shell.run("tenants", "list")

    assert ended.status == 1
    assert ended.err.startswith("tillsync-service: ")
    assert ended.err.count("\n") == 1
    assert words in ended.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("stores", "list", "--tenant", NOBODY), "(NOT_FOUND)"),
        (("devices", "revoke", "--tenant", NOBODY, NOBODY), "(NOT_FOUND)"),
        (("tenants", "create", " "), "name: 1 to 200 characters"),
    ],
)
async def test_the_services_reason_is_told(shell, arguments, words):
    """What the service refuses, it explains: its own words arrive."""
    ended = await shell.run(*arguments)

    assert ended.status == 1
    assert ended.err.count("\n") == 1
    assert words in ended.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("enrolment-code",),
        ("enrolment-code", "--store", NOBODY),
        ("enrolment-code", "--tenant", NOBODY, "--store", NOBODY, "--new-store", "A"),
        ("enrolment-code", "--new-store", "A", "--hours", "721"),
        ("stores", "list", "--tenant", "1"),
    ],
)
async def test_wrong_usage_reaches_no_service(shell, arguments):
    """A mistyped command says how it is used, and changes nothing."""
    ended = await shell.run(*arguments)

    assert ended.status == 2
    assert "Usage:" in ended.err


class Empty(AdminServiceServicer):
    """A service without tenants."""

    async def ListTenants(self, request, context):  # noqa: N802 - gRPC's name
        return admin_pb.ListTenantsResponse()


def a_certificate() -> tuple[bytes, bytes]:
    """Key and self-signed certificate of 127.0.0.1, in PEM."""
    now, key = datetime.now(UTC), ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "head office")])
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    unencrypted = serialization.NoEncryption()
    return (
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, unencrypted),
        certificate.public_bytes(pem),
    )


async def test_tls_with_a_chain_of_ones_own(tmp_path):
    """The retailer runs its own certificate authority: with its file the operator is let in, with
    another's file, or without any, one line says so and the token does not leave."""
    pair = a_certificate()
    (tmp_path / "ca.pem").write_bytes(pair[1])
    (tmp_path / "other.pem").write_bytes(a_certificate()[1])
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    add_AdminServiceServicer_to_server(Empty(), server)
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    await server.start()

    shell = Shell(f"127.0.0.1:{port}", "token")
    good = await shell.run("tenants", "list", "--ca-file", str(tmp_path / "ca.pem"))
    bad = await shell.run("tenants", "list", "--ca-file", str(tmp_path / "other.pem"))
    none = await shell.run("tenants", "list")
    await server.stop(None)

    assert (good.status, good.err) == (0, "")
    for ended in (bad, none):
        assert ended.status == 1
        assert ended.err.count("\n") == 1
        assert "TILLSYNC_CA_FILE" in ended.err
