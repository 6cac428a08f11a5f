"""A collector that keeps what it is sent: OTLP over gRPC, on a port of its own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2, logs_service_pb2_grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span


@dataclass
class Collector:
    """`mood`: takes, refuses, or is silent."""

    mood: str = "takes"
    endpoint: str = ""
    spans: list[Span] = field(default_factory=list)
    metrics: set[str] = field(default_factory=set)
    logs: list[dict[str, object]] = field(default_factory=list)

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]

    async def answer(self, context: grpc.aio.ServicerContext) -> None:
        if self.mood == "is silent":
            await asyncio.Event().wait()
        if self.mood == "refuses":
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "not from you")


class _Traces(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    async def Export(self, request, context):  # noqa: N802 -- gRPC's name
        await self._collector.answer(context)
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self._collector.spans.extend(scope.spans)
        return trace_service_pb2.ExportTraceServiceResponse()


class _Metrics(metrics_service_pb2_grpc.MetricsServiceServicer):
    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    async def Export(self, request, context):  # noqa: N802 -- gRPC's name
        await self._collector.answer(context)
        for resource in request.resource_metrics:
            for scope in resource.scope_metrics:
                self._collector.metrics.update(metric.name for metric in scope.metrics)
        return metrics_service_pb2.ExportMetricsServiceResponse()


class _Logs(logs_service_pb2_grpc.LogsServiceServicer):
    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    async def Export(self, request, context):  # noqa: N802 -- gRPC's name
        await self._collector.answer(context)
        for resource in request.resource_logs:
            for scope in resource.scope_logs:
                for record in scope.log_records:
                    fields = attributes(record.attributes)
                    self._collector.logs.append({"event": record.body.string_value, **fields})
        return logs_service_pb2.ExportLogsServiceResponse()


def attributes(pairs: list[KeyValue]) -> dict[str, object]:
    """By name, as Python has them."""
    return {
        pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "string_value")
        for pair in pairs
    }


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    collector = Collector()
    server = grpc.aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(_Traces(collector), server)
    metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(_Metrics(collector), server)
    logs_service_pb2_grpc.add_LogsServiceServicer_to_server(_Logs(collector), server)
    collector.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield collector
    finally:
        await server.stop(None)
