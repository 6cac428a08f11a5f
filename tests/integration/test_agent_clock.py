"""A till whose clock is wrong by a year and more, with a real service on a real PostgreSQL."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import pytest

from support.agentshell import Shell
from support.fleet import fleet_served
from support.polling import eventually
from tillsync.v1.event_pb2 import EventFlag
from tillsync_service.foundation import limits
from tillsync_service.foundation.errors import Unauthenticated

PROGRAM = Path(__file__).parents[1] / "support" / "wrong_clock.py"
SALE = b'{"receiptNumber": "1", "currency": "USD", "totalMinor": 1250}'
NOW = timedelta(0)
TO_2001 = timedelta(seconds=datetime(2001, 1, 1, tzinfo=UTC).timestamp() - time.time())
IMPLAUSIBLE = 1 << EventFlag.EVENT_FLAG_CLOCK_IMPLAUSIBLE


class WrongTill(Shell):
    """A device whose clock anybody can set."""

    def __init__(self, folder: Path) -> None:
        self._shift_file = folder / "shift"
        super().__init__(folder / "state", (sys.executable, str(PROGRAM), str(self._shift_file)))
        self.set_clock(NOW)

    def set_clock(self, ahead: timedelta) -> None:
        aside = self._shift_file.with_suffix(".new")
        aside.write_text(str(int(ahead.total_seconds())))
        aside.replace(self._shift_file)

    @asynccontextmanager
    async def running_agent(self) -> AsyncIterator[None]:
        agent = await self.start("run")
        try:
            yield
        finally:
            agent.terminate()
            _, err = await asyncio.wait_for(agent.communicate(), 20)
        assert agent.returncode == 0, err.decode()

    async def enrol(self, fleet) -> None:
        arguments = ("--service", fleet.address, "--code", await fleet.a_code(), "--name", "till 3")
        code, _, err = await self("enroll", *arguments)
        assert code == 0, err

    async def sell(self, key: str) -> None:
        code, _, err = await self("record", "--key", key, "--amount", "USD=1250", given=SALE)
        assert code == 0, err


@pytest.fixture
async def fleet(database, tmp_path):
    async with fleet_served(database, tmp_path) as fleet:
        yield fleet


@pytest.fixture
def till(tmp_path):
    return WrongTill(tmp_path)


@pytest.mark.parametrize(
    ("ahead", "words"),
    [
        (timedelta(days=400), "400 days ahead of the service's"),
        (timedelta(days=-400), "400 days behind the service's"),
        (TO_2001, f"{-TO_2001.days / 365.25:.0f} years behind the service's"),
    ],
    ids=["a year ahead", "a year behind", "back in 2001"],
)
async def test_a_till_in_another_year_loses_no_sale_and_says_so(till, fleet, books, ahead, words):
    """The shopkeeper's till woke up in another year: it enrols, sells and sends like any other.
    Head office stores each sale once with a flag, the later ones say by how much the clock is off,
    and status names the clock and the difference."""
    till.set_clock(ahead)
    await till.enrol(fleet)
    for keys in (("a", "b"), ("c",)):
        for key in keys:
            await till.sell(key)
        assert (await till("drain"))[:2] == (0, "nothing waits\n")

    code, out, _ = await till("status")

    rows = await books.connection.fetch("SELECT * FROM tillsync.event ORDER BY position")
    assert [(row["key"], row["flags"] & IMPLAUSIBLE) for row in rows] == [
        (key, IMPLAUSIBLE) for key in "abc"
    ]
    assert [round(-(row["clock_offset_ms"] or 0) / 86_400_000) for row in rows] == [
        *(0, 0),
        round(ahead / timedelta(days=1)),
    ]
    assert code == 1
    (attention,) = [line for line in out.splitlines() if line.startswith("ATTENTION")]
    assert f"this device's clock was {words}: set it right" in attention


async def books_hold(books, key: str) -> bool:
    return await books.connection.fetchval(
        "SELECT EXISTS (SELECT FROM tillsync.event WHERE key = $1)", key
    )


@pytest.fixture
def tokens_issued(fleet, monkeypatch):
    """Every token that the service gave out."""
    issued, give = [], fleet.issuer.device_token

    def device_token(device):
        issued.append(give(device))
        return issued[-1]

    monkeypatch.setattr(fleet.issuer, "device_token", device_token)
    return issued


@pytest.fixture
def refusals(fleet, monkeypatch):
    """Every call that the service refused for its token."""
    refused, judge = [], fleet.verifier.authenticate

    def authenticate(token):
        try:
            return judge(token)
        except Unauthenticated as error:
            refused.append(error)
            raise

    monkeypatch.setattr(fleet.verifier, "authenticate", authenticate)
    return refused


async def test_a_clock_that_jumps_ends_no_token(till, fleet, books, tokens_issued):
    """The shopkeeper's clock jumps a year ahead and then back to 2001 while the till sells: its
    sales flow on with the token it has, as if nothing had happened."""
    await till.enrol(fleet)
    async with till.running_agent():
        for key, ahead in (("a", NOW), ("b", timedelta(days=400)), ("c", TO_2001)):
            till.set_clock(ahead)
            await till.sell(key)
            await eventually(lambda key=key: books_hold(books, key))

    assert len(tokens_issued) == 1


@pytest.fixture
def short_tokens(monkeypatch):
    """Tokens that live for two seconds (and five of grace)."""
    monkeypatch.setattr(limits, "ACCESS_TOKEN_SECONDS", 2)


@pytest.mark.usefixtures("short_tokens")
async def test_a_till_put_back_to_2001_still_renews_its_token_in_time(
    till, fleet, books, tokens_issued, refusals
):
    """The shopkeeper's clock falls back to 2001 while the till holds a token: the token is renewed
    after the seconds that the service gave it, not in 25 years, and no call is refused for it."""
    await till.enrol(fleet)
    async with till.running_agent():
        for number in count():
            await till.sell(f"sale {number}")
            await eventually(lambda number=number: books_hold(books, f"sale {number}"))
            till.set_clock(TO_2001)
            if len(tokens_issued) == 3:
                break

    assert refusals == []
