"""What is counted, timed and gauged, by name. OpenTelemetry's API alone: without a meter all of it
does nothing, and who reads it is decided where the service is put together."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from opentelemetry.metrics import CallbackOptions, Meter, NoOpMeter, Observation

Labels: TypeAlias = Mapping[str, str]
Reading: TypeAlias = Iterable[tuple[float, Labels]]
"""Values of a gauge as of now, each with its labels."""

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_EVENTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000)


class Metrics:
    """The instruments of one service. Names are without the endings (`_total`, `_seconds`) that
    Prometheus puts to them."""

    def __init__(self, meter: Meter | None = None) -> None:
        self._meter = meter = meter or NoOpMeter("tillsync")
        self._events = meter.create_counter(
            "ingest_events", description="Events that were answered, by verdict."
        )
        self._duplicates = meter.create_counter(
            "ingest_dedup", description="Events that were there already, and counted once."
        )
        self._batch = meter.create_histogram(
            "ingest_batch_duration",
            unit="s",
            description="From a batch's examination to its verdicts.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._group = meter.create_histogram(
            "group_commit_batch_size",
            description="Events that shared a transaction.",
            explicit_bucket_boundaries_advisory=_EVENTS,
        )
        self._query = meter.create_histogram(
            "db_query_duration",
            unit="s",
            description="Statements, by the file and name they have in the source.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._rpc = meter.create_histogram(
            "rpc_duration",
            unit="s",
            description="Calls, from their arrival to their end; a stream may last for hours.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )

    def batch(
        self, tenant_id: object, source: str, verdicts: Mapping[str, int], seconds: float
    ) -> None:
        """A batch was answered. `verdicts`: how many events got which; `source`: call or
        stream."""
        tenant = str(tenant_id)
        for verdict, count in verdicts.items():
            labels = {"tenant": tenant, "source": source, "verdict": verdict}
            self._events.add(count, labels)
        if duplicates := verdicts.get("duplicate"):
            self._duplicates.add(duplicates, {"tenant": tenant, "source": source})
        self._batch.record(seconds, {"source": source})

    def group(self, events: int) -> None:
        """A group commit's transaction was committed."""
        self._group.record(events)

    def query(self, statement: str, seconds: float) -> None:
        """A statement was answered, or failed."""
        self._query.record(seconds, {"statement": statement})

    def rpc(self, method: str, code: str, seconds: float) -> None:
        """A call has ended, with the name of a status code."""
        self._rpc.record(seconds, {"method": method, "code": code})

    def count(self, name: str, description: str) -> Callable[[int, Labels], None]:
        """A counter of a room's own."""
        return self._meter.create_counter(name, description=description).add

    def latest(self, name: str, description: str, *labels: str) -> Callable[[Any], None]:
        """A gauge of what it was last told: a number, or with `labels` a mapping from as many
        values of theirs to a number."""
        told: dict[tuple[object, ...], float] = {}

        def tell(news: Any) -> None:
            nonlocal told
            told = dict(news) if labels else {(): news}

        def read() -> Reading:
            for values, number in told.items():
                yield number, dict(zip(labels, map(str, values), strict=True))

        self.gauge(name, description, read)
        return tell

    def gauge(
        self, name: str, description: str, read: Callable[[], Reading], *, unit: str = ""
    ) -> None:
        """Something that is read whenever somebody looks, perhaps in another thread."""

        def observe(_options: CallbackOptions) -> Iterable[Observation]:
            return [Observation(value, labels) for value, labels in read()]

        self._meter.create_observable_gauge(name, [observe], unit=unit, description=description)
