"""The gates before a version is relied on."""

import asyncio
import json
import os
import subprocess
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from support.operated import ROOT
from support.operators import shell_at
from support.service import ServiceProcess

GOOD = {
    "total": 1000,
    "unique": 200,
    "accepted": 200,
    "duplicates": 800,
    "other": 0,
    "p95_ms": 40.0,
}
GATE = [sys.executable, ROOT / "tools" / "load_gate.py", "--p95-ms", "500", "--error-rate", "0.001"]


def decided(said: str):
    ended = subprocess.run(GATE, input=said, capture_output=True, text=True, check=False)
    assert ended.stderr == ""
    return ended.returncode, ended.stdout


@pytest.mark.parametrize(
    ("tally", "why"),
    [
        ({}, ""),
        ({"other": 1, "duplicates": 799}, ""),
        ({"other": 2, "duplicates": 798}, "0.20% of the calls failed; 0.10% may"),
        ({"p95_ms": 500.5}, "95 of 100 calls took up to 500.5 ms; 500 are allowed"),
        ({"p95_ms": None, "other": 1000}, "100.00% of the calls failed"),
        ({"accepted": 199, "duplicates": 801}, "200 different sales were sent and 199 counted"),
        ({"accepted": 201, "duplicates": 798, "other": 1}, "and 201 counted"),
    ],
)
def test_a_load_test_is_judged_by_its_limits(tally, why):
    """A version that is slow, fails or counts a sale twice does not reach a shop."""
    status, said = decided("a line before\n" + json.dumps(GOOD | tally))

    assert (status, why in said) == (1 if why else 0, True)


def test_a_load_test_that_said_nothing_does_not_pass():
    """It could not even run: that is no pass."""
    assert decided("")[0] == 1


@pytest.mark.skipif(sys.platform == "win32", reason="a script for the machines that deploy")
async def test_a_service_that_is_well_passes_all_gates(database_url, tmp_path):
    """The whole script, against a service: it passes, and what was seen is kept. Slower than
    allowed, it does not."""
    (tmp_path / "metrics").write_text("ready 1\n")
    web = ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=tmp_path)
    )
    Thread(target=web.serve_forever, daemon=True).start()
    seen = tmp_path / "seen"
    async with ServiceProcess(database_url, tmp_path) as service, asyncio.timeout(90):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("TILLSYNC_")} | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "TILLSYNC_SERVICE_ADDRESS": service.address,
            "TILLSYNC_OPERATOR_TOKEN": shell_at(service).token,
            "METRICS_URL": f"http://127.0.0.1:{web.server_port}/metrics",
            "ERROR_RATE": "0",
            "TOTAL": "60",
            "UNIQUE": "20",
            "CONCURRENCY": "4",
        }
        statuses = []
        for limit_ms in ("60000", "0.001"):
            gates = await asyncio.create_subprocess_exec(
                ROOT / "deploy" / "gates.sh", seen, env=environment | {"P95_MS": limit_ms}
            )
            statuses.append(await gates.wait())
    web.shutdown()
    web.server_close()

    assert statuses == [0, 1]
    assert json.loads((seen / "smoke.json").read_text())["passed"]
    assert json.loads((seen / "loadtest.json").read_text().splitlines()[-1])["accepted"] == 20
    assert (seen / "metrics.txt").read_text() == "ready 1\n"
