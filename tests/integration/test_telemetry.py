"""What goes to an OpenTelemetry collector, over a real socket, and what a bad collector costs."""

import asyncio
import io
import json
import logging
import sys
from time import monotonic

import pytest
import structlog

from support.builders import an_event
from support.otlp import attributes, collecting
from support.service import Caller, Failure, failure_of, names
from tillsync.v1 import ingest_service_pb2 as pb
from tillsync_service import logs, telemetry
from tillsync_service.app import App
from tillsync_service.config import SettingsError, load
from tillsync_service.databases import token_issuer
from tillsync_service.foundation import tracing
from tillsync_service.ingest.observing import MAX_EVENT_SPANS

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
RECORDED = f"00-{TRACE}-00f067aa0ba902b7-01"
OTHER_TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
async def collector():
    async with collecting() as collector:
        yield collector


def with_collector(settings, collector, ratio=1.0):
    return settings.model_copy(update={"otlp_endpoint": collector.endpoint, "trace_ratio": ratio})


def till_of(app, settings, device):
    return Caller(app.address, token_issuer(settings).device_token(device)[0])


async def test_a_sales_trace_goes_from_the_till_to_the_commit(settings, collector, device):
    """A shop asks what became of a sale: its trace, begun at the till, holds the moment when it was
    stored, and from there leads to the transaction and to the call that it shared."""
    settings = with_collector(settings, collector)
    async with App(settings) as app, till_of(app, settings, device) as till:
        call = till.stub.Ingest(
            pb.IngestRequest(events=[an_event(traceparent=RECORDED)]),
            metadata=(*till.metadata, ("traceparent", f"00-{OTHER_TRACE}-00f067aa0ba902b7-01")),
        )
        await call

    (stored,) = collector.named("tillsync.event.stored")
    (group,) = collector.named("tillsync.group_commit")
    (ingest,) = collector.named("tillsync.ingest")
    (server,) = collector.named("tillsync.v1.IngestService/Ingest")
    assert (stored.trace_id.hex(), stored.parent_span_id.hex()) == (TRACE, "00f067aa0ba902b7")
    assert [link.span_id for link in stored.links] == [group.span_id]
    assert attributes(stored.attributes)["tillsync.verdict"] == "accepted"
    assert attributes(stored.attributes)["tillsync.position"] == 1
    assert (group.trace_id.hex(), group.parent_span_id) == (OTHER_TRACE, ingest.span_id)
    assert (ingest.trace_id.hex(), ingest.parent_span_id) == (OTHER_TRACE, server.span_id)


async def test_callers_that_share_a_transaction_are_linked(settings, collector, device):
    """Many tills sell at once, and their sales share a transaction: its span names all of them."""
    settings = with_collector(settings, collector)
    async with App(settings) as app, till_of(app, settings, device) as till:
        await asyncio.gather(*(till.offer(an_event()) for _ in range(20)))

    ingests = {span.span_id for span in collector.named("tillsync.ingest")}
    groups = collector.named("tillsync.group_commit")
    linked = {link.span_id for group in groups for link in group.links}
    assert len(groups) < 20
    assert {group.parent_span_id for group in groups} | linked == ingests


async def test_what_a_till_does_not_keep_costs_nothing(settings, collector, device):
    """The till's trace is not sampled, and the service's own is not either: nothing is sent."""
    settings = with_collector(settings, collector, ratio=0.0)
    async with App(settings) as app, till_of(app, settings, device) as till:
        await till.offer(an_event(traceparent=RECORDED[:-1] + "0"), an_event())
    assert collector.spans == []


async def test_a_backlog_of_traced_sales_is_bounded(settings, collector, device):
    """A till sends a thousand sales that are all traced: some have their spans, and all of them are
    stored no later for it."""
    settings = with_collector(settings, collector, ratio=0.0)
    async with App(settings) as app, till_of(app, settings, device) as till:
        await till.offer(*(an_event(traceparent=RECORDED) for _ in range(200)))
    assert len(collector.named("tillsync.event.stored")) == MAX_EVENT_SPANS


@pytest.mark.parametrize("traceparent", ["", "x", "00-zz-1-01", "01" * 27 + "1", '"},{"', "ä-01"])
async def test_a_traceparent_that_is_none_harms_nothing(settings, collector, device, traceparent):
    """A till's program writes anything as its trace: the sale is stored."""
    settings = with_collector(settings, collector)
    async with App(settings) as app, till_of(app, settings, device) as till:
        assert names(await till.offer(an_event(traceparent=traceparent))) == ["ACCEPTED"]


@pytest.fixture
def json_logs(monkeypatch):
    """Lines as a service's process writes them."""
    before = structlog.get_config()
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    logs.configure("info", "json")
    yield lambda: [json.loads(line) for line in written.getvalue().splitlines()]
    structlog.configure(**before)


async def test_metrics_and_logs_go_there_too(settings, collector, device, json_logs):
    """The operator looks into one place for everything: metrics by their names, and log lines with
    the request, the trace and the device that they are of."""
    settings = with_collector(settings, collector)
    async with App(settings) as app, till_of(app, settings, device) as till:
        metadata = (*till.metadata, ("x-request-id", "shop-7:42"), ("traceparent", RECORDED))
        app._group_commit.submit = _broken
        await failure_of(till.stub.Ingest(pb.IngestRequest(events=[an_event()]), metadata=metadata))

    assert {"db_query_duration", "rpc_duration", "build_info"} <= collector.metrics
    line = next(line for line in collector.logs if line["event"] == "call_failed")
    assert line["request_id"] == "shop-7:42"
    assert line["trace_id"] == TRACE
    assert line["device_id"] == str(device.device_id)
    assert line["tenant_id"] == str(device.tenant_id)
    (said,) = [line for line in json_logs() if line["event"] == "call_failed"]
    assert said["request_id"] == "shop-7:42"


async def _broken(*_):
    raise ZeroDivisionError


@pytest.mark.parametrize(
    ("given", "taken"), [("shop-7:42", True), ("a b", False), ("x" * 65, False), ("", False)]
)
async def test_a_request_is_found_again_by_its_id(settings, device, given, taken):
    """A shop reads the id of its request to the help desk: it is the one that it gave, or one that
    the service made, with every answer and every refusal."""
    async with App(settings) as app, till_of(app, settings, device) as till:
        metadata = (*till.metadata, ("x-request-id", given))
        call = till.stub.Ingest(pb.IngestRequest(events=[an_event()]), metadata=metadata)
        await call
        answered = dict(await call.trailing_metadata())["x-request-id"]
        refused: Failure = await failure_of(
            till.stub.Ingest(pb.IngestRequest(), metadata=(*metadata[1:],))
        )
    assert (answered == given) is taken
    assert answered
    assert (refused.metadata["x-request-id"] == given) is taken


@pytest.mark.parametrize("mood", ["is silent", "refuses", "is away"])
async def test_a_bad_collector_costs_the_shop_nothing(settings, collector, device, mood):
    """The collector hangs, refuses, or is not there: sales are stored as ever, and the service
    stops in time."""
    collector.mood = mood
    settings = with_collector(settings, collector)
    if mood == "is away":
        settings = settings.model_copy(update={"otlp_endpoint": "http://127.0.0.1:1"})
    async with App(settings) as app:
        async with till_of(app, settings, device) as till:
            for _ in range(20):
                assert names(await till.offer(an_event())) == ["ACCEPTED"]
        began = monotonic()
        report = await app.stop()
    assert report.outcome == "drained"
    assert monotonic() - began < 15  # flushing is given five seconds


def test_what_opentelemetry_says_of_its_troubles_is_said_seldom():
    """A collector is away for a week: the log says so now and then, in the log's own form."""
    telemetry._quieten()
    telemetry._quieten()
    logger = logging.getLogger("opentelemetry")
    (handler,) = [each for each in logger.handlers if isinstance(each, telemetry._Seldom)]
    handler._said_at = float("-inf")
    with structlog.testing.capture_logs() as said:
        for _ in range(100):
            logging.getLogger("opentelemetry.exporter").error("away")
    assert [line["event"] for line in said] == ["telemetry_not_exported"]


def test_an_endpoint_that_is_none_is_named(monkeypatch):
    """The operator forgets http:// and is told which setting it is."""
    monkeypatch.setenv("TILLSYNC_OTLP_ENDPOINT", "collector:4317")
    with pytest.raises(SettingsError, match=r"TILLSYNC_OTLP_ENDPOINT: .* http://collector:4317"):
        load()


def test_only_version_0_traceparents_are_kept():
    """Flags of a version that nobody knows yet mean nothing here."""
    assert tracing.is_sampled(RECORDED)
    assert not tracing.is_sampled(RECORDED[:-1] + "2")
    assert not tracing.is_sampled("")
