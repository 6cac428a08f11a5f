"""The feed: a consumer that is far behind, several at once, a rare kind among many, and how soon a
sale is with a live one."""

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import asynccontextmanager
from uuid import UUID

import asyncpg
import grpc

from bench import ingest
from bench.figures import Figures, percentile
from bench.rig import Rig, Target
from bench.sales import Till, sales
from tillsync.v1 import feed_service_pb2 as pb
from tillsync.v1.feed_service_pb2_grpc import FeedServiceStub
from tillsync.v1.ingest_service_pb2 import IngestRequest
from tillsync.v1.ingest_service_pb2_grpc import IngestServiceStub

EVENTS = 200_000
ROUNDS = 3
READERS = 4
_LIVE_SALES = 200
_PAGE_EVENTS = 1_000
_PAUSE_SECONDS = 0.1
_RARE = pb.FeedFilter(type_urls=["type.example.com/rare"])
_BARE = "SELECT * FROM tillsync.event WHERE tenant_id = $1 AND position > $2 ORDER BY 2 LIMIT $3"


async def measure(bench: Rig, say: Callable[[str], None]) -> Figures:
    """Figures by name, from a service process that has served nobody else."""
    await bench.database("feed")
    async with bench.service("feed") as target:
        say(f"filling a history with {EVENTS:,} events")
        (till,) = await target.tills(tenants=1, count=1)
        await ingest.fill(target, till, EVENTS)
        tenant_id = till.device.tenant_id
        async with _feed(target, tenant_id) as subscribe:
            say("one consumer from behind, and bare pages of the table")
            rates, bare, cpu_us = [], [], []
            for _ in range(ROUNDS):  # in turn, so that a slow minute of the machine hits both
                bare.append(EVENTS / await _bare_seconds(target, tenant_id))
                cpu_began = target.cpu_seconds()
                rates.append(EVENTS / await _seconds(subscribe, pb.SubscribeRequest()))
                cpu_us.append((target.cpu_seconds() - cpu_began) / EVENTS * 1e6)
            say(f"{READERS} consumers from behind")
            began = time.perf_counter()
            reads = (_seconds(subscribe, pb.SubscribeRequest()) for _ in range(READERS))
            await asyncio.gather(*reads)
            together = READERS * EVENTS / (time.perf_counter() - began)
            say("a rare kind among all of them")
            rare = EVENTS / await _seconds(subscribe, pb.SubscribeRequest(filter=_RARE), events=0)
            say("sales on their way to a live consumer")
            took_ms = await _live_ms(target, till, subscribe)
        return {
            "feed_events_per_s": (max(rates), ">= 50,000"),
            "feed_bare_pages_events_per_s": (max(bare), ""),
            "feed_to_bare_pages": (max(rates) / max(bare), ""),
            "feed_service_cpu_us_per_event": (min(cpu_us), ""),
            f"feed_{READERS}_consumers_events_per_s": (together, ""),
            "feed_filtered_events_per_s": (rare, ""),
            "feed_live_p50_ms": (percentile(took_ms, 50), ""),
            "feed_live_p95_ms": (percentile(took_ms, 95), "<= 150"),
            "feed_service_peak_mb": (target.peak_megabytes(), "<= 250"),
        }


Subscribe = Callable[[pb.SubscribeRequest], AsyncIterable[pb.SubscribeResponse]]


@asynccontextmanager
async def _feed(target: Target, tenant_id: UUID) -> AsyncIterator[Subscribe]:
    token = target.issuer.integrator_token("bench", tenant_id, 3600)
    metadata = (("authorization", f"Bearer {token}"),)
    async with grpc.aio.insecure_channel(target.address) as channel:
        stub = FeedServiceStub(channel)
        yield lambda request: stub.Subscribe(request, metadata=metadata)


async def _seconds(
    subscribe: Subscribe, request: pb.SubscribeRequest, events: int = EVENTS
) -> float:
    began = time.perf_counter()
    received = 0
    async for page in subscribe(request):
        received += len(page.events)
    if received != events:
        raise RuntimeError(f"{received:,} events instead of {events:,}")
    return time.perf_counter() - began


async def _bare_seconds(target: Target, tenant_id: UUID) -> float:
    """As rows, one page after the other, past the service."""
    connection = await asyncpg.connect(target.admin_url)
    try:
        began = time.perf_counter()
        position = 0
        while rows := await connection.fetch(_BARE, tenant_id, position, _PAGE_EVENTS):
            position = rows[-1]["position"]
        return time.perf_counter() - began
    finally:
        await connection.close()


async def _live_ms(target: Target, till: Till, subscribe: Subscribe) -> list[float]:
    """From the receipt of a sale to its arrival at a consumer, one at a time."""
    metadata = (("authorization", f"Bearer {target.token(till)}"),)
    pages = subscribe(pb.SubscribeRequest(from_head=True, live=True))
    took_ms: list[float] = []
    arrived: asyncio.Queue[float] = asyncio.Queue()

    async def listen() -> None:
        async for page in pages:
            for _ in page.events:
                arrived.put_nowait(time.perf_counter())

    listening = asyncio.create_task(listen())
    async with grpc.aio.insecure_channel(target.address) as channel:
        stub = IngestServiceStub(channel)
        for sale in sales(Till.of_device(till.device), _LIVE_SALES):
            await asyncio.sleep(_PAUSE_SECONDS)
            await stub.Ingest(IngestRequest(events=[sale]), metadata=metadata)
            stored = time.perf_counter()
            took_ms.append((await arrived.get() - stored) * 1000)
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    return took_ms
