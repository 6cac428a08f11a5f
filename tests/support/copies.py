"""PullResponses as a service would send them, made by hand."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence

from tillsync.v1.record_pb2 import Collection, RecordBlock
from tillsync.v1.sync_service_pb2 import Checkpoint, LoadReason, PullResponse

STORE = "0191d0a0-0000-7000-8000-000000005001"
Records = Mapping[str, Mapping[str, object] | str | None]


def a_block(
    collection: str, records: Records, store_id: str = "", *, version: int = 1
) -> RecordBlock:
    """Records by id; None: deleted."""
    return RecordBlock(
        collection=collection,
        store_id=store_id,
        record_ids=records,
        versions=range(version, version + len(records)),
        bodies=[body_of(fields) for fields in records.values()],
    )


def body_of(fields: Mapping[str, object] | str | None) -> str:
    """A text is the body as it is."""
    if isinstance(fields, str):
        return fields
    return "" if fields is None else json.dumps(fields, ensure_ascii=False)


def a_load(
    blocks: Sequence[RecordBlock],
    *,
    keys: Mapping[str, Sequence[str]] = {},
    version: int = 3,
    whole: bool = True,
) -> PullResponse:
    """A load of everything that the blocks name; `whole`: with its checkpoint."""
    names = sorted({block.collection for block in blocks})
    response = PullResponse(blocks=blocks, cursor=b"loaded" if whole else b"loading")
    load = response.load_begun
    load.reason, load.everything = LoadReason.LOAD_REASON_FIRST, True
    for block in blocks:
        load.parts.add(collection=block.collection, store_id=block.store_id)
    load.collections.extend(
        Collection(name=name, policy="POLICY_SERVER_WINS", lookup_keys=keys.get(name, ()))
        for name in names
    )
    if whole:
        response.checkpoint.CopyFrom(a_checkpoint(version).checkpoint)
    return response


def changes(
    blocks: Iterable[RecordBlock], *, version: int, marks: Mapping[int, int] = {}
) -> PullResponse:
    """Changes with the checkpoint that makes them whole."""
    response = a_checkpoint(version, marks=marks)
    response.blocks.extend(blocks)
    return response


def a_checkpoint(
    version: int,
    *,
    marks: Mapping[int, int] = {},
    digests: Mapping[tuple[str, str], Records] = {},
    store_id: str = STORE,
) -> PullResponse:
    """`digests`: parts with the records that they should come to."""
    checkpoint = Checkpoint(version=version, history_id="history-1", store_id=store_id)
    for epoch, sequence in marks.items():
        checkpoint.marks.add(epoch=epoch, sequence=sequence)
    for (collection, store), records in digests.items():
        total = sum(_hash(record_id, body_of(fields)) for record_id, fields in records.items())
        checkpoint.digests.add(
            collection=collection,
            store_id=store,
            record_count=len(records),
            digest=(total % 2**128).to_bytes(16, "big"),
        )
    return PullResponse(cursor=f"at {version}".encode(), checkpoint=checkpoint)


def _hash(record_id: str, body: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{record_id}\0{body}".encode()).digest()[:16], "big")
