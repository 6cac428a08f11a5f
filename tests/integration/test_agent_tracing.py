"""A sale's trace from the point of sale on, in processes of their own: OpenTelemetry has one
provider a process."""

import asyncio
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import grpc
import pytest

from support.builders import an_event
from support.fleet import Fleet
from support.otlp import collecting
from support.polling import eventually
from tillsync_agent import tracing
from tillsync_agent.outbox import Outbox
from tillsync_service.app import App
from tillsync_service.databases import token_issuer

SELLS = """
    import sys
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from tillsync.v1.retail_pb2 import Sale
    from tillsync_agent import Outbox

    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    with Outbox.open(sys.argv[1]) as outbox:
        with trace.get_tracer("pos").start_as_current_span("checkout"):
            outbox.record(Sale(receipt_number="1", currency="USD", total_minor=100))
    provider.shutdown()
"""


def environment(**settings: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("TILLSYNC_", "OTEL_"))}
    return kept | settings


async def run(*command: str | Path, **settings: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command,
        env=environment(**settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, output.decode()
    return output.decode()


async def test_one_trace_goes_from_the_checkout_to_the_commit(settings, tmp_path):
    """A cashier's sale was slow, and the shop asks why: one trace shows the checkout, the
    recording, the upload and the commit at head office, in that order."""
    agent = Path(sys.executable).with_name("tillsync-agent")
    state = tmp_path / "state"
    async with collecting() as collector:
        settings = settings.model_copy(update={"otlp_endpoint": collector.endpoint})
        async with App(settings) as app, grpc.aio.insecure_channel(app.address) as channel:
            code = await Fleet(channel, app.address, token_issuer(settings)).a_code()
            enrolling = ("enroll", "--service", app.address, "--code", code, "--name", "till 1")
            await run(agent, "--state-dir", state, *enrolling)
            sells = (sys.executable, "-c", textwrap.dedent(SELLS), state / "outbox.db")
            await run(*sells, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)
            sends = (agent, "--state-dir", state, "run")
            to = environment(OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)
            process = await asyncio.create_subprocess_exec(*sends, env=to)
            with Outbox.open(state / "outbox.db") as outbox:
                await eventually(lambda: outbox.backlog()[0] == 0, within_seconds=30)
            process.terminate()
            await process.wait()

    (checkout,) = collector.named("checkout")
    (recorded,) = collector.named("tillsync.record")
    (uploaded,) = collector.named("tillsync.upload")
    (stored,) = collector.named("tillsync.event.stored")
    assert recorded.parent_span_id == checkout.span_id
    assert {span.trace_id for span in (recorded, uploaded, stored)} == {checkout.trace_id}
    assert {uploaded.parent_span_id, stored.parent_span_id} == {recorded.span_id}
    assert recorded.end_time_unix_nano <= uploaded.start_time_unix_nano
    assert uploaded.start_time_unix_nano <= stored.start_time_unix_nano


def test_without_opentelemetry_a_sale_is_recorded_all_the_same(tmp_path, monkeypatch):
    """A till has nothing but the agent on it: sales are recorded, and nothing is traced."""
    monkeypatch.setattr(tracing, "trace", None)
    with Outbox.open(tmp_path / "outbox.db") as outbox:
        outbox.record(an_event().body)
        (waiting,) = outbox.take()
    tracing.uploaded([waiting.envelope], 1, 2)


def test_a_missing_library_is_a_warning_and_no_stop(monkeypatch, caplog):
    """Somebody sets the endpoint on a till without the library: the agent says what to install, and
    sales go on."""
    monkeypatch.setenv(tracing.ENDPOINT, "http://127.0.0.1:1")

    def missing():
        raise ImportError("No module named 'opentelemetry.sdk'")

    monkeypatch.setattr(tracing, "_provider", missing)
    with tracing.exported():
        pass
    assert "install tillsync-agent[telemetry]" in caplog.text


@pytest.mark.parametrize("given", ["00-" + "1" * 32 + "-" + "2" * 16 + "-00", "mine"])
def test_a_programs_own_trace_is_left_as_it_is(tmp_path, given):
    """A point of sale hands in its own traceparent: it goes with the sale, to the letter."""
    with Outbox.open(tmp_path / "outbox.db") as outbox:
        outbox.record(an_event().body, traceparent=given)
        (waiting,) = outbox.take()
    assert given.encode() in waiting.envelope
