"""One import: its records are examined and staged as they come, and published or forgotten."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from uuid import UUID, uuid4

from tillsync.v1.error_reason_pb2 import ErrorReason
from tillsync_service.foundation import limits
from tillsync_service.foundation.errors import InvalidRequest, ServiceError
from tillsync_service.sync import bodies
from tillsync_service.sync.store import REFUSED, Published, RecordStore, Staged


@dataclass(frozen=True, slots=True)
class Destination:
    """Where the records go, and how: see ImportSettings in the contract."""

    tenant_id: UUID
    collection: str
    scope: UUID
    atomic: bool
    complete: bool


@dataclass(frozen=True, slots=True)
class Refused:
    """A record that can never be stored. `index`: its place in the import, from 0."""

    index: int
    record_id: str
    field: str
    description: str


class Import:
    """Made by `begun`, which forgets what was staged unless it was published."""

    def __init__(self, store: RecordStore, to: Destination, import_id: UUID) -> None:
        self._store = store
        self._to = to
        self._import_id = import_id
        self._count = 0
        self.staged = 0
        self.refused = 0
        self.is_published = False

    async def take(self, record_ids: Sequence[str], texts: Sequence[str]) -> list[Refused]:
        """Stages the records and says which of them were refused. Raises InvalidRequest: nothing
        of the import can go in."""
        _must_be_columns(record_ids, texts)
        if self._count + len(record_ids) > limits.MAX_IMPORT_RECORDS:
            raise InvalidRequest(
                "record_ids", f"An import has at most {limits.MAX_IMPORT_RECORDS:,} records."
            )
        staged: list[Staged] = []
        refused: list[Refused] = []
        examined = 0
        for index, (record_id, text) in enumerate(
            zip(record_ids, texts, strict=True), start=self._count
        ):
            examined += len(text)
            if examined > limits.EXAMINE_SLICE_CHARACTERS:
                examined = 0
                await asyncio.sleep(0)
            found = examine(index, record_id, text)
            if isinstance(found, Staged):
                staged.append(found)
                continue
            self._must_not_be_atomic(found)
            refused.append(found)
            if found.field == "bodies":
                staged.append(Staged(record_id, None, REFUSED))
        if staged:
            await self._store.stage(self._to.tenant_id, self._import_id, self._count, staged)
        self._count += len(record_ids)
        self.refused += len(refused)
        self.staged = self._count - self.refused
        return refused

    async def publish(self, actor: str) -> Published:
        """Everything that was staged goes in, committed. Raises NotFound."""
        to = self._to
        published = await self._store.publish(
            to.tenant_id,
            self._import_id,
            to.collection,
            to.scope,
            complete=to.complete,
            refused=self.refused,
            actor=actor,
        )
        self.is_published = True
        return published

    async def forget(self) -> None:
        if self._count:
            await self._store.discard(self._to.tenant_id, self._import_id)

    def _must_not_be_atomic(self, refused: Refused) -> None:
        if self._to.atomic:
            raise InvalidRequest(
                refused.field,
                f"Record {refused.index}: {refused.description}",
                reason=ErrorReason.ERROR_REASON_RECORD_NOT_STORABLE,
            )


@asynccontextmanager
async def begun(store: RecordStore, to: Destination) -> AsyncIterator[Import]:
    """An import that leaves nothing behind unless it was published, however it ends."""
    import_ = Import(store, to, uuid4())
    try:
        yield import_
    finally:
        if not import_.is_published:
            with suppress(ServiceError):  # what stays is swept up by an import of another day
                await import_.forget()


def examine(index: int, record_id: str, text: str) -> Staged | Refused:
    """The record as it is staged, or why it cannot be. Pure."""
    if not bodies.is_record_id(record_id):
        return Refused(
            index,
            record_id[: limits.MAX_RECORD_ID_CHARACTERS],
            "record_ids",
            f"An id has 1 to {limits.MAX_RECORD_ID_CHARACTERS} characters, no NUL.",
        )
    if not text:
        return Staged(record_id, None, None)
    try:
        body = bodies.canonical(bodies.parsed(text))
    except bodies.NotStorable as error:
        return Refused(index, record_id, "bodies", str(error))
    return Staged(record_id, body, bodies.record_hash(record_id, body))


def _must_be_columns(record_ids: Sequence[str], texts: Sequence[str]) -> None:
    if len(record_ids) > limits.MAX_IMPORT_MESSAGE_RECORDS:
        raise InvalidRequest(
            "record_ids", f"A message has at most {limits.MAX_IMPORT_MESSAGE_RECORDS:,} records."
        )
    if len(texts) != len(record_ids):
        raise InvalidRequest("bodies", f"{len(texts):,} of them for {len(record_ids):,} ids.")
