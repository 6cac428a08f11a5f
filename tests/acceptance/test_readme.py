"""What the README shows works as it stands there."""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from demo.operator import Operator
from support.polling import eventually
from support.service import ServiceProcess
from tillsync_agent import Replica
from tillsync_service.databases import utc_now
from tillsync_service.fleet.keys import KeyFile
from tillsync_service.fleet.tokens import TokenIssuer

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
AGENT = Path(sys.executable).with_name("tillsync-agent")


@pytest.fixture
async def service(database_url, tmp_path):
    async with ServiceProcess(database_url, tmp_path) as service:
        yield service


@pytest.fixture
async def code(service):
    """For one till to join with."""
    token = TokenIssuer(KeyFile(service.keys), utc_now).operator_token("reader", None, 600)
    operator = Operator(service.address, token)
    chain = await asyncio.to_thread(operator.open_chain, ["1"], 1)
    return chain.codes["1"][0]


async def run(till: Path, *command: str) -> str:
    """A command on the till whose state is in this folder."""
    process = await asyncio.create_subprocess_exec(
        *command,
        env=os.environ | {"TILLSYNC_AGENT_STATE_DIR": str(till)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return output.decode()


@asynccontextmanager
async def agent_running(till: Path) -> AsyncIterator[None]:
    """The till's agent, as a service manager runs it."""
    agent = await asyncio.create_subprocess_exec(
        AGENT, "run", env=os.environ | {"TILLSYNC_AGENT_STATE_DIR": str(till)}
    )
    try:
        yield
    finally:
        agent.terminate()
        await asyncio.wait_for(agent.wait(), 20)


def loaded(till: Path) -> bool:
    """Whether the till has the prices."""
    path = till / "replica.db"
    if not path.exists():
        return False
    with Replica.open(path) as replica:
        return bool(replica.summary().records)


async def test_the_ten_lines_record_a_sale_that_reaches_head_office(service, code, books, tmp_path):
    """A POS developer copies the ten lines: they run as they are, twice without harm, and the sale
    is at head office once."""
    (program,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    till = tmp_path / "till"

    await run(till, AGENT, "enroll", "--service", service.address, "--code", code, "--name", "t3")
    first = await run(till, sys.executable, "-c", program)
    again = await run(till, sys.executable, "-c", program)
    await run(till, AGENT, "drain", "--timeout", "20")

    assert first == again == "on the disk as number 1\n"
    assert await books.connection.fetch("SELECT key FROM tillsync.event") == [("till-3/4711",)]


async def test_prices_go_to_the_till_and_the_day_comes_back(service, code, books, tmp_path):
    """An operator types what the README shows, at head office and at a till that has
    sold: the price is found and changed, the day is closed, and nothing is missing."""
    (program,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (section,) = re.findall(r"## Prices to the till.*?\n## ", README, re.DOTALL)
    at_office, at_till, asked = re.findall(r"(?:^    .*\n)+", section, re.MULTILINE)
    tenant = str(await books.connection.fetchval("SELECT tenant_id FROM tillsync.tenant"))
    tenant_line, at_office = at_office.split("\n", 1)
    token = TokenIssuer(KeyFile(service.keys), utc_now).operator_token("reader", None, 600)
    (tmp_path / ".venv").symlink_to(Path(sys.executable).parents[1])

    async def typed(lines: str) -> str:
        shell = f"set -e; cd {tmp_path}; TENANT={tenant}\n{lines}"
        office = {"TILLSYNC_SERVICE_ADDRESS": service.address, "TILLSYNC_OPERATOR_TOKEN": token}
        return await run(
            tmp_path / "till", "env", *map("=".join, office.items()), "sh", "-c", shell
        )

    assert tenant_line.strip().startswith("TENANT=")
    imported = await typed(at_office)
    enrol = ("--service", service.address, "--code", code, "--name", "t3")
    await run(tmp_path / "till", AGENT, "enroll", *enrol)
    await run(tmp_path / "till", sys.executable, "-c", program)
    async with agent_running(tmp_path / "till"):
        await eventually(lambda: loaded(tmp_path / "till"), within_seconds=30)
        shown = await typed(at_till)
        await run(tmp_path / "till", AGENT, "drain", "--timeout", "20")
    answered = await typed(asked)

    assert imported.splitlines()[-1].split("\t")[:1] == ["1"]
    assert '"cents": 450' in shown.splitlines()[0]
    assert "business day 2026-11-22 is closed, revision 1: 1 events, 1250 EUR" in shown
    assert answered == ""
    body = await books.connection.fetchval("SELECT body FROM tillsync.record")
    assert '"cents":430' in body


def test_every_command_the_readme_shows_is_where_it_is_installed():
    """Whoever copies a command from the README has it: each is called by its place in .venv."""
    to_copy = README.partition("## Ten lines")[2]
    named = re.findall(r"(?<!bin/)\btillsync-(?:service|agent) [a-z]", to_copy)

    assert named == []


def test_every_file_the_readme_names_is_there():
    """Whoever reads on finds what the README points at."""
    links = re.findall(r"\]\(([^):]+)\)", README)

    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
