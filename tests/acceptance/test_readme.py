"""What the README shows works as it stands there."""

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from demo.operator import Operator
from support.service import ServiceProcess
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


def test_every_file_the_readme_names_is_there():
    """Whoever reads on finds what the README points at."""
    links = re.findall(r"\]\(([^):]+)\)", README)

    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
