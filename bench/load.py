"""The load: raw gRPC calls with bodies that were serialized before the clock runs."""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import grpc

from tillsync.v1.event_pb2 import Outcome
from tillsync.v1.ingest_service_pb2 import IngestResponse

_STREAM = "/tillsync.v1.IngestService/IngestStream"
_UNARY = "/tillsync.v1.IngestService/Ingest"

_Stream: TypeAlias = grpc.aio.StreamStreamCall[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Calls:
    """How long it took in all, and each call's latency, in seconds."""

    seconds: float
    latencies_seconds: list[float]

    def percentile_ms(self, percent: int) -> float:
        ordered = sorted(self.latencies_seconds)
        return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] * 1000


async def streams(lanes: Sequence[tuple[str, str, Sequence[bytes]]]) -> float:
    """Seconds until every lane (an address, a token and batches) is answered, one stream a lane.
    Raises RuntimeError unless the last batch of each was accepted."""
    began = time.perf_counter()
    await asyncio.gather(*(_stream(*lane) for lane in lanes))
    return time.perf_counter() - began


async def _stream(address: str, token: str, batches: Sequence[bytes]) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        call: _Stream = channel.stream_stream(_STREAM)(metadata=_credentials(token))
        sending = asyncio.create_task(_send(call, batches))
        answers = [answer async for answer in call]
        await sending
    # Looked at when the clock no longer matters for the others: parsing costs the load generator.
    _must_be_accepted(answers[-1:])
    if len(answers) != len(batches):
        raise RuntimeError(f"{len(answers)} of {len(batches)} batches were answered")


async def _send(call: _Stream, batches: Sequence[bytes]) -> None:
    for batch in batches:
        await call.write(batch)
    await call.done_writing()


async def unary(address: str, token: str, requests: Sequence[bytes], *, in_flight: int) -> Calls:
    """One call a request, `in_flight` of them at a time."""
    waiting = deque(requests)
    latencies: list[float] = []
    async with grpc.aio.insecure_channel(address) as channel:
        ingest: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(_UNARY)

        async def worker() -> None:
            while waiting:
                request = waiting.popleft()
                began = time.perf_counter()
                answer = await ingest(request, metadata=_credentials(token))
                latencies.append(time.perf_counter() - began)
                if len(latencies) == len(requests):
                    _must_be_accepted([answer])

        began = time.perf_counter()
        await asyncio.gather(*(worker() for _ in range(in_flight)))
        return Calls(time.perf_counter() - began, latencies)


def _credentials(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


def _must_be_accepted(answers: Sequence[bytes]) -> None:
    for answer in answers:
        verdicts = IngestResponse.FromString(answer).verdicts
        if any(verdict.outcome != Outcome.OUTCOME_ACCEPTED for verdict in verdicts):
            raise RuntimeError("an event was not accepted: the figures would mean nothing")
