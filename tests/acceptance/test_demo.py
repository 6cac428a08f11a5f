"""The demo as a newcomer runs it, and whether its verdict can be trusted."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from demo import ledger
from demo.books import Stored
from demo.chronicle import Chronicle
from demo.ledger import Entry, Ledger
from demo.records import Outcome
from demo.till import Look, Till
from demo.verdict import Verdict, reckon
from tillsync.v1.event_pb2 import Event

ROOT = Path(__file__).resolve().parents[2]
SALES = 240
SMALL = ("--sales", str(SALES), "--stores", "2", "--tills-per-store", "2", "--day-seconds", "12")


@pytest.mark.timeout(170)
@pytest.mark.skipif(
    not importlib.util.find_spec("duckdb"), reason="make .venv/demo-data installs the baskets"
)
def test_nothing_is_missing_after_a_day_of_mishaps():
    """A newcomer believes it when he sees it: links, programs, agents, service and database fail
    while tills sell, and their own ledgers agree with PostgreSQL, sale by sale."""
    demo = subprocess.run(
        [sys.executable, "-m", "demo", *SMALL],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert demo.returncode == 0, demo.stdout + demo.stderr
    verdict = json.loads(demo.stdout.splitlines()[-1])
    assert list(verdict) == [
        "recorded",
        "stored",
        "duplicates",
        "lost",
        "doubled",
        "money_recorded_minor",
        "money_stored_minor",
        "replicas_equal",
        "missing_found",
        "missing_healed",
        "conflicts_audited",
        "seconds",
    ]
    assert verdict["recorded"] == verdict["stored"] == SALES
    assert verdict["lost"] == verdict["doubled"] == 0
    assert verdict["money_recorded_minor"] == verdict["money_stored_minor"] > 0
    assert verdict["duplicates"] > 0
    assert verdict["replicas_equal"] == 4
    assert verdict["missing_found"] == verdict["missing_healed"] == 2
    assert verdict["conflicts_audited"] == 1
    for mishap in (
        "link cut",
        "agent killed",
        "program killed",
        "service killed",
        "PostgreSQL stopped",
        "a price changes at head office",
        "2 of its sales lost at head office",
    ):
        assert mishap in demo.stdout


RIGHT = {"replicas_equal": 1, "missing_found": 2, "missing_healed": 2, "conflicts_audited": 1}


def sale(key: str, minor_units: int = 1250) -> Entry:
    return Entry(key, "USD", minor_units, times=1)


def row(key: str, minor_units: int = 1250, device: str = "device 1") -> Stored:
    return Stored(device, key, {"USD": minor_units})


@pytest.fixture
def verdict_on(tmp_path):
    """The verdict on one till that recorded three sales, given what PostgreSQL holds."""
    till = Till(1, "367", [Event()] * 3, tmp_path / "till", processes=None)
    till.device_id = "device 1"
    book = Ledger(till.ledger_path)
    for key in ("a", "b", "c"):
        book.write(sale(key))

    def verdict(
        *stored: Stored, look: Look | None = None, money: int = 3750, **records: int
    ) -> Verdict:
        return reckon(
            [till],
            [look or Look(recorded=3)],
            stored=stored,
            totals={"device 1": (len(stored), money)},
            chronicle=Chronicle(),
            records=Outcome(**(RIGHT | records)),
            seconds=1.0,
        )

    return verdict


def test_the_verdict_is_good_when_every_sale_is_there_once(verdict_on):
    """Three sold, three stored: good."""
    assert verdict_on(row("a"), row("b"), row("c")).is_good


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        ((row("a"), row("b")), "1 sales lost"),
        ((row("a"), row("b"), row("c"), row("c")), "1 sales doubled"),
        ((row("a"), row("b"), row("x")), "no till ever recorded"),
        ((row("a"), row("b", 1200), row("c", 1300)), "money differs"),
        ((row("a"), row("b"), row("c", device="device 2")), "money differs"),
    ],
    ids=["lost", "doubled", "invented", "wrong money, right sum", "another till's"],
)
def test_the_verdict_is_bad_when_anything_differs(verdict_on, stored, words):
    """A demo that could not fail would prove nothing: each difference is found and named."""
    verdict = verdict_on(*stored)

    assert not verdict.is_good
    assert words in " ".join(verdict.faults)


def test_the_verdict_looks_at_the_outbox_and_at_the_services_totals(verdict_on):
    """What still waits, what was refused, and day totals that differ are faults too."""
    rows = row("a"), row("b"), row("c")

    assert verdict_on(*rows, look=Look(3, waiting=1)).faults == ("till 1: 1 sales still wait",)
    assert verdict_on(*rows, look=Look(3, refused=1)).faults == ("till 1: 1 sales refused",)
    assert verdict_on(*rows, money=3749).faults == ("till 1: the service's own day totals differ",)


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ("replicas_equal", "copies are not what PostgreSQL holds"),
        ("missing_found", "missing sales were found"),
        ("missing_healed", "came home"),
        ("conflicts_audited", "conflicts were kept"),
    ],
)
def test_the_verdict_is_bad_when_records_are(verdict_on, column, words):
    """A till's copy that differs, a loss that nobody saw or that did not come home, and a conflict
    without a trace are faults too."""
    verdict = verdict_on(row("a"), row("b"), row("c"), **{column: 0})

    assert not verdict.is_good
    assert words in " ".join(verdict.faults)


def test_a_ledger_that_was_cut_short_goes_on_behind_its_last_whole_line(tmp_path):
    """A till's program is killed while it writes its ledger: it sells that sale again."""
    path = tmp_path / "ledger"
    Ledger(path).write(sale("a"))
    with path.open("a") as file:
        file.write("b\tUS")

    book = Ledger(path)
    assert book.count == 1
    book.write(sale("b"))

    assert [entry.key for entry in ledger.read(path)] == ["a", "b"]


def test_no_process_outlives_the_demo(tmp_path):
    """A demo that is killed leaves nothing behind that goes on running."""
    program = """
        import asyncio, sys, time
        from pathlib import Path
        from demo.processes import Processes

        async def main():
            async with Processes(Path(sys.argv[1])) as processes:
                await processes.start("sleeper", "sleep", "600")
                print("ready", flush=True)
                time.sleep(600)

        asyncio.run(main())
    """
    demo = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    demo.stdout.readline()
    family = psutil.Process(demo.pid).children(recursive=True)
    assert len(family) == 2

    os.kill(demo.pid, signal.SIGKILL)
    demo.wait()
    demo.stdout.close()

    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []
