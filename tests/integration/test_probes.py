"""Probes and metrics of the service as it is composed."""

import asyncio
import shutil
import socket
import subprocess
from time import time

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from support.builders import an_event
from support.polling import eventually
from support.service import Caller, names
from support.web import get, scraped
from tillsync.v1.sync_service_pb2 import PullRequest
from tillsync.v1.sync_service_pb2_grpc import SyncServiceStub
from tillsync_service import app as application
from tillsync_service.app import App
from tillsync_service.config import SettingsError
from tillsync_service.databases import token_issuer
from tillsync_service.foundation import visitors_book
from tillsync_service.rooms import SERVICES

PROBES = ("/startupz", "/livez", "/readyz", "/healthz", "/health/ready")


@pytest.fixture
async def app(settings):
    async with App(settings) as app:
        yield app


@pytest.fixture
async def till(app, settings, device):
    async with Caller(app.address, token_issuer(settings).device_token(device)[0]) as till:
        yield till


async def test_every_kind_of_probe_says_that_it_serves(app):
    """The service is there: whoever asks, over HTTP or gRPC, by new names and by old, hears it."""
    assert [await get(app.http_port, path) for path in PROBES] == [(200, "ok\n")] * len(PROBES)
    async with grpc.aio.insecure_channel(app.address) as channel:
        for service in ("", "startup", "liveness", "readiness", *SERVICES):
            request = health_pb2.HealthCheckRequest(service=service)
            answer = await HealthStub(channel).Check(request)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING, service


async def test_who_watches_hears_of_a_stop(settings):
    """A load balancer watches: it hears that the service is about to stop before it stops, and has
    the time to notice that the settings give it; sales are taken until then."""
    patient = settings.model_copy(update={"drain_notice_seconds": 0.5})
    async with App(patient) as app, grpc.aio.insecure_channel(app.address) as channel:
        watch = HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service="readiness"))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING

        stopping = asyncio.create_task(app.stop())

        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert await get(app.http_port, "/readyz") == (503, "It is stopping.\n")
        assert await get(app.http_port, "/livez") == (200, "ok\n")
        live = health_pb2.HealthCheckRequest(service="liveness")
        assert (await HealthStub(channel).Check(live)).status == 1
        assert (await stopping).outcome == "drained"


async def test_while_it_starts_it_says_so(settings, monkeypatch):
    """The database takes its time to start: the service is alive, not started, and not ready, and
    nobody restarts it for that."""
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def slowly(*arguments):
        asked.set()
        await go_on.wait()
        return await serving_url(*arguments)

    serving_url = application.serving_url
    monkeypatch.setattr(application, "serving_url", slowly)
    app = App(settings)
    starting = asyncio.create_task(app.start())
    await asked.wait()

    assert (await get(app.http_port, "/startupz"))[0] == 503
    assert (await get(app.http_port, "/readyz"))[0] == 503
    assert (await get(app.http_port, "/livez"))[0] == 200

    go_on.set()
    await starting
    assert (await get(app.http_port, "/startupz"))[0] == 200
    await app.stop()


async def test_a_port_that_is_taken_is_named(settings):
    """Two services on one machine: the second says which setting to change."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(SettingsError, match="TILLSYNC_HTTP_LISTEN"):
            await App(settings.model_copy(update={"http_listen": address})).start()


async def test_http_can_be_left_out(settings):
    """An operator wants no HTTP at all."""
    async with App(settings.model_copy(update={"http_listen": "off"})) as app:
        assert app.http_port == 0


async def test_a_flood_of_probes_holds_up_no_sale(app, till):
    """A monitoring system goes wild: sales go on, and every probe is answered."""
    flood = asyncio.gather(*(get(app.http_port, "/readyz") for _ in range(500)))
    for _ in range(20):
        assert names(await till.offer(an_event())) == ["ACCEPTED"]
    assert {status for status, _ in await flood} == {200}


async def test_sales_are_counted_by_retailer_and_verdict(app, till, device):
    """Head office looks at its dashboard: it sees each sale once, and each repeat as what it is."""
    tenant = str(device.tenant_id)
    sale = an_event()
    await till.offer(sale, an_event())
    await till.offer(sale)

    series = await scraped(app.http_port)

    count = series.value
    assert count("ingest_events_total", tenant=tenant, source="call", verdict="accepted") == 2
    assert count("ingest_events_total", tenant=tenant, verdict="duplicate") == 1
    assert count("ingest_dedup_total", tenant=tenant, source="call") == 1
    assert count("group_commit_batch_size_count") == 2
    assert count("group_commit_batch_size_sum") == 3
    assert count("db_query_duration_seconds_count", statement="ingest.look") == 2
    assert count("rpc_duration_seconds_count", code="OK") >= 2
    assert count("ready") == 1
    assert count("build_info") == 1


async def test_a_store_that_is_behind_is_seen(app, till, device):
    """A till was offline for an hour and sends what it sold: the dashboard shows how old that is,
    by the shop's own store."""
    await till.offer(an_event(occurred_at=Timestamp(seconds=int(time()) - 3600)))

    series = await scraped(app.http_port)

    age = series.value(
        "store_oldest_unacknowledged_seconds",
        tenant=str(device.tenant_id),
        store=str(device.store_id),
    )
    assert 3_500 < age < 3_700


async def test_a_store_that_fell_silent_is_seen(app, till, device, monkeypatch):
    """A store's line is cut for two days: the dashboard shows how long nobody has heard of it, and
    that ends with its next sale."""
    store = {"tenant": str(device.tenant_id), "store": str(device.store_id)}
    await till.offer(an_event())
    assert (await scraped(app.http_port)).value("store_silent_seconds", **store) < 60

    now = visitors_book.monotonic()
    monkeypatch.setattr(visitors_book, "monotonic", lambda: now + 2 * 86_400)
    assert (await scraped(app.http_port)).value("store_silent_seconds", **store) > 170_000

    await till.offer(an_event())
    assert (await scraped(app.http_port)).value("store_silent_seconds", **store) < 60


async def test_nothing_is_registered_twice(settings):
    """The service is made anew again and again in one process, as tests and reloads do: each counts
    for itself, and every series stands there once."""
    for _ in range(3):
        async with App(settings) as first, App(settings) as second:
            for app in (first, second):
                series = await scraped(app.http_port)
                families = [line for line in series.text.splitlines() if line.startswith("# TYPE")]
                assert len(families) == len(set(families))
                assert series.value("build_info") == 1


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
async def test_prometheus_finds_no_fault_with_the_series(app, till):
    """Every series is named and described as Prometheus wants it."""
    await till.offer(an_event())
    series = await scraped(app.http_port)

    checked = await asyncio.to_thread(
        subprocess.run,
        ["promtool", "check", "metrics"],
        input=series.text.encode(),
        capture_output=True,
        check=False,
    )

    assert (checked.returncode, checked.stderr.decode()) == (0, "")


async def test_retailers_without_number_do_not_fill_the_memory(app):
    """More retailers than a service counts by name: those beyond are counted together."""
    metrics = app._telemetry.metrics
    for number in range(3_000):
        metrics.batch(f"tenant-{number}", "call", {"accepted": 1}, 0.001)

    series = await scraped(app.http_port)

    assert len(series.labels("ingest_events_total")) <= 2_001  # and one for all the others
    assert series.value("ingest_events_total") == 3_000


async def test_live_pulls_are_counted(app, till):
    """An operator asks how many tills hear of new prices at once: one does, and then none."""
    stub = SyncServiceStub(till.channel)
    pull = stub.Pull(PullRequest(live=True), metadata=till.metadata)

    async def live() -> float:
        return (await scraped(app.http_port)).value("live_pulls")

    await eventually(lambda: _is(live, 1))
    pull.cancel()
    await eventually(lambda: _is(live, 0))


async def _is(measured, wanted):
    return await measured() == wanted
