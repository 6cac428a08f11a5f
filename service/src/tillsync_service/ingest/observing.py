"""What is seen from outside of batches and of the transactions that they share: counts, times, and
spans."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import monotonic, perf_counter, time
from typing import Any, Final

from opentelemetry.trace import Link, NoOpTracer, Span, SpanContext, SpanKind, Tracer

from tillsync.v1.event_pb2 import Outcome
from tillsync_service.foundation import tracing
from tillsync_service.foundation.metrics import Metrics, Reading
from tillsync_service.ingest.batch import Batch
from tillsync_service.ingest.store import Receipt

_VERDICTS: Final = {value: name.removeprefix("OUTCOME_").lower() for name, value in Outcome.items()}
# A transaction's events that have a span of their own: those whose trace somebody keeps. More would
# take the time of the sales.
MAX_EVENT_SPANS = 32
_MAX_LINKS = 32

# What a till sent last says how far behind it is, for as long.
_AGE_COUNTS_SECONDS = 60.0
_MAX_TILLS = 10_000


class Observer:
    """Without a meter and a tracer it does nothing that is seen."""

    def __init__(self, metrics: Metrics | None = None, tracer: Tracer | None = None) -> None:
        self._metrics = metrics or Metrics()
        self._tracer = tracer or NoOpTracer()
        self._ages: dict[tuple[str, str, str], tuple[float, float]] = {}
        self._metrics.gauge(
            "store_oldest_unacknowledged",
            "How old the oldest event was that a store's tills sent within the last minute.",
            self._oldest,
            unit="s",
        )

    @contextmanager
    def batch(self, batch: Batch, source: str) -> Iterator[list[Receipt]]:
        """While a batch is stored; what is put into the list is its receipt."""
        began = perf_counter()
        receipts: list[Receipt] = []
        self._note_age(batch)
        with self._span("tillsync.ingest", batch) as span:
            tracing.work_in(span)
            yield receipts
        for receipt in receipts:
            outcomes = Counter(receipt.verdicts.outcomes)
            verdicts = {_VERDICTS[outcome]: count for outcome, count in outcomes.items()}
            seconds = perf_counter() - began
            self._metrics.batch(batch.device.tenant_id, source, verdicts, seconds)

    @contextmanager
    def group(
        self, batches: Sequence[Batch], callers: Sequence[SpanContext | None]
    ) -> Iterator[list[Receipt]]:
        """While a group is committed; what is put into the list are its receipts. Its span is in
        the first caller's trace, and linked to the others'."""
        began_ns = int(time() * 1e9)
        receipts: list[Receipt] = []
        traced = [caller for caller in callers if caller and caller.trace_flags.sampled]
        events = _traced_events(batches)
        if not traced and not events:
            yield receipts
            self._count(receipts)
            return
        first = tracing.context_of_span(traced[0]) if traced else tracing.context_of(events[0][2])
        links = [Link(caller) for caller in traced[1:_MAX_LINKS]]
        with self._tracer.start_span("tillsync.group_commit", first, links=links) as span:
            span.set_attribute("tillsync.events", sum(map(len, batches)))
            span.set_attribute("tillsync.callers", len(batches))
            yield receipts
        self._count(receipts)
        if receipts:
            self._span_events(batches, receipts, events, span, began_ns)

    def _count(self, receipts: Sequence[Receipt]) -> None:
        if receipts:
            self._metrics.group(sum(len(receipt.verdicts.outcomes) for receipt in receipts))

    def _span(self, name: str, batch: Batch) -> Span:
        attributes: dict[str, Any] = {
            "tillsync.tenant": str(batch.device.tenant_id),
            "tillsync.device": str(batch.device.device_id),
            "tillsync.events": len(batch),
        }
        return self._tracer.start_span(name, tracing.current(), attributes=attributes)

    def _span_events(
        self,
        batches: Sequence[Batch],
        receipts: Sequence[Receipt],
        events: Sequence[tuple[int, int, str]],
        group: Span,
        began_ns: int,
    ) -> None:
        """In the trace that each of them brought."""
        link = [Link(group.get_span_context())]
        for number, place, traceparent in events:
            verdicts, device = receipts[number].verdicts, batches[number].device
            attributes: dict[str, Any] = {
                "tillsync.tenant": str(device.tenant_id),
                "tillsync.device": str(device.device_id),
                "tillsync.verdict": _VERDICTS[verdicts.outcomes[place]],
                "tillsync.position": verdicts.positions[place],
            }
            self._tracer.start_span(
                "tillsync.event.stored",
                tracing.context_of(traceparent),
                kind=SpanKind.CONSUMER,
                attributes=attributes,
                links=link,
                start_time=began_ns,
            ).end()

    def _note_age(self, batch: Batch) -> None:
        """A till sends its oldest events first."""
        second = batch.seconds.partition(",")[0]
        if not second.lstrip("-").isdigit():
            return
        offset_ms = batch.offsets_ms.partition(",")[0]
        offset = int(offset_ms) / 1000 if offset_ms.lstrip("-").isdigit() else 0.0
        device = batch.device
        till = (str(device.tenant_id), str(device.store_id), str(device.device_id))
        self._ages.pop(till, None)
        self._ages[till] = (max(0.0, time() - int(second) - offset), monotonic())
        if len(self._ages) > _MAX_TILLS:
            del self._ages[next(iter(self._ages))]

    def _oldest(self) -> Reading:
        stores: dict[tuple[str, str], float] = {}
        for (tenant, store, _), (age, seen_at) in list(self._ages.items()):
            counts = age if monotonic() - seen_at <= _AGE_COUNTS_SECONDS else 0.0
            stores[tenant, store] = max(stores.get((tenant, store), 0.0), counts)
        for (tenant, store), age in stores.items():
            yield age, {"tenant": tenant, "store": store}


def _traced_events(batches: Sequence[Batch]) -> list[tuple[int, int, str]]:
    """The first events whose trace is kept: number of the batch, place in it, traceparent."""
    found: list[tuple[int, int, str]] = []
    for number, batch in enumerate(batches):
        if "-" not in batch.traceparents:  # the usual case, at the price of one look
            continue
        for place, traceparent in enumerate(batch.traceparents.split(",")):
            if tracing.is_sampled(traceparent):
                found.append((number, place, traceparent))
                if len(found) == MAX_EVENT_SPANS:
                    return found
    return found
