"""A real Prometheus scrapes a real service: `make nightly`."""

import asyncio
import json
import os
import shutil
import socket
import subprocess
from urllib.parse import quote

import pytest

from support.builders import an_event
from support.polling import eventually
from support.service import Caller
from support.web import get
from tillsync_service.app import App
from tillsync_service.databases import token_issuer

if "TILLSYNC_TEST_NIGHTLY" not in os.environ:
    pytest.skip("for `make nightly`", allow_module_level=True)

PROMETHEUS = shutil.which("prometheus")
CONFIG = """
global:
  scrape_interval: 1s
scrape_configs:
  - job_name: tillsync
    static_configs:
      - targets: ["127.0.0.1:{port}"]
"""


@pytest.fixture
async def app(settings):
    async with App(settings) as app:
        yield app


@pytest.fixture
async def prometheus(app, tmp_path):
    """The port of one that scrapes the service."""
    assert PROMETHEUS, "Debian, Ubuntu: apt install prometheus"
    config = tmp_path / "prometheus.yml"
    config.write_text(CONFIG.format(port=app.http_port))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        PROMETHEUS,
        f"--config.file={config}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    yield port
    process.terminate()
    await process.wait()


async def asked(port: int, query: str) -> list[float]:
    try:
        status, text = await get(port, f"/api/v1/query?query={quote(query)}")
    except OSError:  # it is starting
        return []
    if status != 200:
        return []
    return [float(each["value"][1]) for each in json.loads(text)["data"]["result"]]


async def test_a_dashboards_questions_are_answered(app, settings, prometheus, device):
    """Head office opens its dashboard: Prometheus has scraped the sales, and answers what the
    panels ask."""
    token = token_issuer(settings).device_token(device)[0]
    async with Caller(app.address, token) as till:
        sale = an_event()
        await till.offer(sale, an_event())
        await till.offer(sale)

    async def is_there(query: str, value: float) -> bool:
        return await asked(prometheus, query) == [value]

    for query, value in (
        ("up", 1),
        ("ready", 1),
        ('sum(ingest_events_total{verdict="accepted"})', 2),
        ("sum(ingest_dedup_total)", 1),
        ("sum(group_commit_batch_size_count)", 2),
    ):
        await eventually(lambda query=query, value=value: is_there(query, value), within_seconds=30)
    (quantile,) = await asked(
        prometheus,
        "histogram_quantile(0.95, sum by (le) (db_query_duration_seconds_bucket))",
    )
    assert quantile > 0
