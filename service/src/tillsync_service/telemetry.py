"""OpenTelemetry for one service: its meter and its tracer, whom they are read by, and its logs.

Everything belongs to the object and nothing to the process, so that a second service in one
process registers nothing twice. What is sent goes over OTLP, from threads of OpenTelemetry's own:
a collector that is away, slow or refuses costs what it does not take, and nothing else.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from importlib.metadata import version
from uuid import uuid4

import structlog
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import AlwaysOffExemplarFilter, MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import NoOpTracer, Tracer
from prometheus_client import CollectorRegistry

from tillsync_service import logs
from tillsync_service.config import Settings
from tillsync_service.foundation.metrics import Metrics

log = structlog.get_logger(__name__)

_SCOPE = "tillsync"
EXPORT_SECONDS = 5
METRICS_EVERY_SECONDS = 15
FLUSH_SECONDS = 5.0


class Telemetry:
    """Made before anything that is measured, ended by `close` after it."""

    def __init__(self, settings: Settings) -> None:
        resource = Resource.create(
            {
                "service.name": "tillsync-service",
                "service.version": version("tillsync-service"),
                "service.instance.id": uuid4().hex,
            }
        )
        endpoint = settings.otlp_endpoint
        self.registry = CollectorRegistry()
        readers: list[MetricReader] = [
            PrometheusMetricReader(
                disable_target_info=True, scope_info_enabled=False, registry=self.registry
            )
        ]
        self._tracers = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(settings.trace_ratio)),
            resource=resource,
            shutdown_on_exit=False,
        )
        self._logs: LoggerProvider | None = None
        self._remove_sink: Callable[[], None] = lambda: None
        if endpoint:
            _quieten()
            readers.append(
                PeriodicExportingMetricReader(
                    OTLPMetricExporter(endpoint, timeout=EXPORT_SECONDS),
                    export_interval_millis=METRICS_EVERY_SECONDS * 1000,
                    export_timeout_millis=EXPORT_SECONDS * 1000,
                )
            )
            self._tracers.add_span_processor(
                BatchSpanProcessor(OTLPSpanExporter(endpoint, timeout=EXPORT_SECONDS))
            )
            self._logs = LoggerProvider(resource, shutdown_on_exit=False)
            self._logs.add_log_record_processor(
                BatchLogRecordProcessor(OTLPLogExporter(endpoint, timeout=EXPORT_SECONDS))
            )
            self._remove_sink = logs.also_to(self._logs.get_logger(_SCOPE))
        # Without examples of single measurements: every one would pay for what nobody asks for.
        self._meters = MeterProvider(
            readers, resource, AlwaysOffExemplarFilter(), shutdown_on_exit=False
        )
        measured = settings.measured
        self.metrics = Metrics(self._meters.get_meter(_SCOPE) if measured else None)
        self.tracer: Tracer = self._tracers.get_tracer(_SCOPE) if measured else NoOpTracer()

    async def close(self) -> None:
        """Sends what is not sent yet, for at most five seconds."""
        self._remove_sink()
        ends = [self._tracers.shutdown, self._meters.shutdown]
        if self._logs is not None:
            ends.append(self._logs.shutdown)
        await _beside(ends, FLUSH_SECONDS)


async def _beside(ends: Sequence[Callable[[], object]], within_seconds: float) -> None:
    """In threads that nobody has to wait for: a collector may be silent."""
    loop = asyncio.get_running_loop()
    done = asyncio.Event()
    left = len(ends)

    def one_less() -> None:
        nonlocal left
        left -= 1
        if not left:
            done.set()

    def run(end: Callable[[], object]) -> None:
        try:
            end()
        finally:
            if not loop.is_closed():
                loop.call_soon_threadsafe(one_less)

    for end in ends:
        threading.Thread(target=run, args=(end,), daemon=True).start()
    try:
        await asyncio.wait_for(done.wait(), within_seconds)
    except TimeoutError:
        log.warning("telemetry_not_flushed", seconds=within_seconds)


def _quieten() -> None:
    """OpenTelemetry says through logging, at every try, that a collector is away. Once a minute is
    enough, and in our own form."""
    logger = logging.getLogger("opentelemetry")
    if not any(isinstance(handler, _Seldom) for handler in logger.handlers):
        logger.addHandler(_Seldom())
        logger.propagate = False


class _Seldom(logging.Handler):
    _EVERY_SECONDS = 60.0

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._said_at = float("-inf")

    def emit(self, record: logging.LogRecord) -> None:
        if record.created - self._said_at >= self._EVERY_SECONDS:
            self._said_at = record.created
            log.warning("telemetry_not_exported", logger=record.name)
