"""Sync behind a real socket, a head office that writes records, and a device that pulls and pushes
without any of the agent's cleverness."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Self
from uuid import UUID, uuid4

import asyncpg
import grpc

from support.service import IdsAsToken, ids_as_token, kept_in_order
from tillsync.v1 import sync_service_pb2 as pb
from tillsync.v1.sync_service_pb2_grpc import SyncServiceStub, add_SyncServiceServicer_to_server
from tillsync_service.databases import utc_now
from tillsync_service.foundation.db import Database
from tillsync_service.foundation.doorkeeper import Doorkeeper
from tillsync_service.foundation.identity import Device
from tillsync_service.foundation.wakeups import Wakeups
from tillsync_service.sync import bodies
from tillsync_service.sync.edit_store import EditStore
from tillsync_service.sync.read_store import ReadStore
from tillsync_service.sync.scopes import TENANT
from tillsync_service.sync.servicer import SyncServicer
from tillsync_service.sync.store import RecordStore, Staged
from tillsync_service.sync.streams import Pulls
from tillsync_service.sync.tail import Tails


class HeadOffice:
    """Writes records of one tenant, and tells what they come to."""

    def __init__(self, database: Database, migrator: asyncpg.Connection, tenant_id: UUID) -> None:
        self.store = RecordStore(database)
        self.migrator = migrator
        self.tenant_id = tenant_id
        self.changed = lambda _tenant_id: None

    async def define(
        self,
        name: str,
        policy: str = "server_wins",
        *,
        keys: tuple[str, ...] = (),
        order: int = 100,
    ) -> None:
        async with self.migrator.transaction():
            version = await self.migrator.fetchval(
                "UPDATE tillsync.tenant_head SET position = position + 1"
                " WHERE tenant_id = $1 AND stream = 'record' RETURNING position",
                self.tenant_id,
            )
            await self.migrator.execute(
                "INSERT INTO tillsync.collection VALUES ($1, $2, $3, $4, $5, $6)"
                " ON CONFLICT (tenant_id, name) DO UPDATE SET policy = excluded.policy,"
                " lookup_keys = excluded.lookup_keys, version = excluded.version",
                self.tenant_id,
                name,
                policy,
                list(keys),
                order,
                version,
            )
        self.changed(self.tenant_id)

    async def write(
        self,
        collection: str,
        records: Mapping[str, Mapping[str, object] | None],
        *,
        scope: UUID = TENANT,
        complete: bool = False,
    ) -> int:
        """Publishes records (None: deleted) all at once; gives the version after it."""
        import_id = uuid4()
        await self.store.stage(self.tenant_id, import_id, 0, [staged(*r) for r in records.items()])
        published = await self.store.publish(
            self.tenant_id, import_id, collection, scope, complete=complete
        )
        self.changed(self.tenant_id)
        return published.version

    async def records(self, *scopes: UUID) -> dict[tuple[str, str, str], str]:
        """(collection, store id, record id) to body, of the scopes, as the service holds them."""
        rows = await self.migrator.fetch(
            "SELECT * FROM tillsync.record WHERE tenant_id = $1 AND scope = ANY ($2)"
            " AND body IS NOT NULL",
            self.tenant_id,
            [TENANT, *scopes],
        )
        return {
            (r["collection"], str(r["scope"]) if r["scope"].int else "", r["record_id"]): r["body"]
            for r in rows
        }

    async def forget_deletions(self) -> None:
        """The horizon passes everything that was deleted until now."""
        await self.migrator.execute(
            "UPDATE tillsync.tenant_head SET horizon = position"
            " WHERE tenant_id = $1 AND stream = 'record'",
            self.tenant_id,
        )
        await self.migrator.execute(
            "DELETE FROM tillsync.record WHERE tenant_id = $1 AND body IS NULL", self.tenant_id
        )

    async def move(self, device: Device, store_id: UUID) -> None:
        await self.migrator.execute(
            "INSERT INTO tillsync.store VALUES ($1, $2, $3, 'elsewhere') ON CONFLICT DO NOTHING",
            self.tenant_id,
            store_id,
            store_id.hex,
        )
        async with self.migrator.transaction():
            version = await self.migrator.fetchval(
                "UPDATE tillsync.tenant_head SET position = position + 1"
                " WHERE tenant_id = $1 AND stream = 'record' RETURNING position",
                self.tenant_id,
            )
            await self.migrator.execute(
                "UPDATE tillsync.device SET store_id = $3, placed_version = $4"
                " WHERE tenant_id = $1 AND device_id = $2",
                self.tenant_id,
                device.device_id,
                store_id,
                version,
            )
        self.changed(self.tenant_id)

    async def restored(self) -> None:
        """What `tillsync-service restored` does to the histories."""
        await self.migrator.execute(
            "UPDATE tillsync.tenant_head SET history_id = gen_random_uuid() WHERE tenant_id = $1",
            self.tenant_id,
        )


def staged(record_id: str, fields: Mapping[str, object] | None) -> Staged:
    if fields is None:
        return Staged(record_id, None, None)
    body = bodies.canonical(dict(fields))
    return Staged(record_id, body, bodies.record_hash(record_id, body))


@dataclass
class SyncServed:
    """The service's end, in this process."""

    address: str
    tails: Tails
    reads: ReadStore
    edits: EditStore
    wakeups: Wakeups


@asynccontextmanager
async def sync_served(
    database: Database, database_url: str, **pulls_settings: object
) -> AsyncIterator[SyncServed]:
    """SyncService behind the doorkeeper, on a port of its own."""
    page = {
        name: pulls_settings.pop(name)
        for name in ("page_records", "page_bytes")
        if name in pulls_settings
    }
    reads = ReadStore(database, **page)
    tails = Tails(reads)
    wakeups = Wakeups(database_url, tails.wake)
    edits = EditStore(database, wakeups.tell)
    doorkeeper = Doorkeeper(IdsAsToken())
    server = grpc.aio.server(interceptors=(doorkeeper,), options=(("grpc.so_reuseport", 0),))
    add_SyncServiceServicer_to_server(
        SyncServicer(Pulls(reads, tails, **pulls_settings), edits, utc_now), server
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    tasks = [asyncio.create_task(wakeups.run()), asyncio.create_task(tails.poll())]
    try:
        async with kept_in_order(doorkeeper):
            yield SyncServed(f"127.0.0.1:{port}", tails, reads, edits, wakeups)
    finally:
        await server.stop(None)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass
class Copy:
    """What a device makes of a pull by the rules of docs/SYNC.md, in a few lines: the second
    implementation that the agent's is held against."""

    records: dict[tuple[str, str, str], str] = field(default_factory=dict)
    staged: dict[tuple[str, str, str], str] = field(default_factory=dict)
    loading: set[tuple[str, str]] = field(default_factory=set)
    everything: bool = False
    cursor: bytes = b""
    checkpoint_cursor: bytes = b""
    version: int = 0
    loads: list[int] = field(default_factory=list)
    """The reasons of the loads that began."""
    marks: dict[int, int] = field(default_factory=dict)
    digests: dict[tuple[str, str], tuple[int, bytes]] = field(default_factory=dict)
    collections: dict[str, object] = field(default_factory=dict)
    received: list[pb.PullResponse] = field(default_factory=list)

    def receive(self, message: pb.PullResponse) -> None:
        self.received.append(message)
        if message.HasField("load_begun"):
            self._begin(message.load_begun)
        for block in message.blocks:
            columns = zip(block.record_ids, block.versions, block.bodies, strict=True)
            for record_id, _version, body in columns:
                self.staged[block.collection, block.store_id, record_id] = body
        if message.cursor:
            self.cursor = message.cursor
        if message.HasField("checkpoint"):
            self._apply(message.checkpoint)

    def _begin(self, load: pb.LoadBegun) -> None:
        self.loads.append(load.reason)
        parts = {(part.collection, part.store_id) for part in load.parts}
        if load.everything:
            self.staged, self.loading, self.everything = {}, set(), True
        self.staged = {k: v for k, v in self.staged.items() if k[:2] not in parts}
        self.loading |= parts

    def _apply(self, checkpoint: pb.Checkpoint) -> None:
        kept = {} if self.everything else self.records
        kept = {
            key: body
            for key, body in kept.items()
            if key[:2] not in self.loading and key[1] in {"", checkpoint.store_id}
        }
        kept |= self.staged
        self.records = {key: body for key, body in kept.items() if body}
        self.staged, self.loading, self.everything = {}, set(), False
        self.version = checkpoint.version
        self.checkpoint_cursor = self.cursor
        self.marks |= {mark.epoch: mark.sequence for mark in checkpoint.marks}
        self.collections |= {each.name: each for each in checkpoint.collections}
        if checkpoint.complete:
            self.digests = {}
        for part in checkpoint.digests:
            self.digests[part.collection, part.store_id] = (part.record_count, part.digest)
        assert self.digest_of_parts() == {k: v for k, v in self.digests.items() if v[0]}

    def digest_of_parts(self) -> dict[tuple[str, str], tuple[int, bytes]]:
        sums: dict[tuple[str, str], tuple[int, int]] = {}
        for (collection, store_id, record_id), body in self.records.items():
            count, total = sums.get((collection, store_id), (0, 0))
            new_hash = bodies.record_hash(record_id, body)
            sums[collection, store_id] = (count + 1, total + new_hash)
        return {part: (count, bodies.digest_bytes(total)) for part, (count, total) in sums.items()}


class PullingDevice:
    """A device's side of the wire."""

    def __init__(self, address: str, device: Device) -> None:
        self.device = device
        self.channel = grpc.aio.insecure_channel(
            address, options=(("grpc.use_local_subchannel_pool", 1),)
        )
        self._metadata = (("authorization", f"Bearer {ids_as_token(device)}"),)
        self._stub = SyncServiceStub(self.channel)
        self.copy = Copy()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()

    async def responses(
        self, *, cursor: bytes | None = None, live: bool = False, reload: tuple[str, ...] = ()
    ) -> AsyncIterator[pb.PullResponse]:
        """Received by the copy, one by one."""
        request = pb.PullRequest(
            cursor=self.copy.cursor if cursor is None else cursor,
            live=live,
            reload_collections=reload,
        )
        call = self._stub.Pull(request, metadata=self._metadata, timeout=60)
        try:
            async for message in call:
                self.copy.receive(message)
                yield message
        finally:
            call.cancel()

    async def pull(self, **arguments: object) -> Copy:
        """To the next checkpoint."""
        async with aclosing(self.responses(**arguments)) as responses:
            async for _ in responses:
                pass
        return self.copy

    async def pull_some(self, messages: int, **arguments: object) -> Copy:
        """Cut after some messages."""
        async with aclosing(self.responses(**arguments)) as responses:
            async for _ in responses:
                messages -= 1
                if not messages:
                    break
        return self.copy

    async def push(self, epoch: int, *mutations: pb.Mutation) -> pb.PushResponse:
        request = pb.PushRequest(epoch=epoch, mutations=mutations)
        return await self._stub.Push(request, metadata=self._metadata, timeout=20)
