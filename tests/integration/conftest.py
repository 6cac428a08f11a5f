"""An operator at a shell beside a running service."""

import asyncio

import pytest

from support.operators import Shell, shell_at
from support.service import ServiceProcess


@pytest.fixture(scope="module")
def service(postgres, tmp_path_factory):
    """A service for all tests of a module; each works in a tenant of its own."""
    name = asyncio.run(postgres.make_database())
    service = ServiceProcess(postgres.serving_url(name), tmp_path_factory.mktemp("service"))
    asyncio.run(service.start())
    yield service
    asyncio.run(service.kill())
    asyncio.run(postgres.drop_database(name))


@pytest.fixture
def shell(service) -> Shell:
    """An operator of every tenant."""
    return shell_at(service)


@pytest.fixture
async def place(shell):
    """(tenant, store) of the test's own."""
    made = (await shell.run("enrolment-code", "--new-store", "Main street", "--json")).json
    return made["tenant_id"], made["store_id"]
