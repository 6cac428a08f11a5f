"""Between the contract's messages and what sync works with. Pure."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from uuid import UUID

from tillsync.v1 import record_pb2
from tillsync.v1 import sync_service_pb2 as pb
from tillsync_service.foundation.db import Row
from tillsync_service.sync import cursors, scopes
from tillsync_service.sync.bodies import digest_bytes
from tillsync_service.sync.edit_store import Receipt
from tillsync_service.sync.pull import Checkpoint, Load, Step

POLICIES = {
    "server_wins": record_pb2.POLICY_SERVER_WINS,
    "arrival_wins": record_pb2.POLICY_ARRIVAL_WINS,
    "manual": record_pb2.POLICY_MANUAL,
}
OUTCOMES = {
    "applied": pb.MUTATION_OUTCOME_APPLIED,
    "won": pb.MUTATION_OUTCOME_WON,
    "lost": pb.MUTATION_OUTCOME_LOST,
    "parked": pb.MUTATION_OUTCOME_PARKED,
    "rejected": pb.MUTATION_OUTCOME_REJECTED,
}
_PART = itemgetter("collection", "scope")


def pull_response(tenant_id: UUID, step: Step | None, served_at: datetime) -> pb.PullResponse:
    """The message for a step; for None, that the stream lives."""
    response = pb.PullResponse()
    response.served_at.FromDatetime(served_at)
    if step is None:
        return response
    response.cursor = cursors.encoded(tenant_id, step.cursor)
    if step.load is not None:
        response.load_begun.CopyFrom(_load(step.load))
    for (collection, scope), rows in groupby(step.rows, key=_PART):
        block = response.blocks.add(collection=collection, store_id=scopes.to_wire(scope))
        _fill(block, list(rows))
    if step.checkpoint is not None:
        _fill_checkpoint(response.checkpoint, step.checkpoint, step)
    return response


def push_response(first_sequence: int, receipt: Receipt) -> pb.PushResponse:
    response = pb.PushResponse(
        next_sequence=receipt.next_sequence, history_id=str(receipt.history_id)
    )
    for sequence, result in enumerate(receipt.results, start=first_sequence):
        answer = response.results.add(
            sequence=sequence, outcome=OUTCOMES[result.outcome], version=result.version
        )
        if result.reason:
            answer.refusal.reason = result.reason
            answer.refusal.field = result.field
            answer.refusal.description = result.description
    return response


def collection(row: Row) -> record_pb2.Collection:
    return record_pb2.Collection(
        name=row["name"],
        policy=POLICIES[row["policy"]],
        lookup_keys=row["lookup_keys"],
        load_order=row["load_order"],
    )


def part_digest(row: Row) -> pb.PartDigest:
    return pb.PartDigest(
        collection=row["collection"],
        store_id=scopes.to_wire(row["scope"]),
        record_count=row["record_count"],
        digest=digest_bytes(int(row["digest"])),
    )


def _fill(block: record_pb2.RecordBlock, rows: Sequence[Row]) -> None:
    block.record_ids.extend(row["record_id"] for row in rows)
    block.versions.extend(row["version"] for row in rows)
    block.bodies.extend(row["body"] or "" for row in rows)


def _load(load: Load) -> pb.LoadBegun:
    return pb.LoadBegun(
        reason=load.reason,
        everything=load.everything,
        parts=(
            pb.Part(collection=name, store_id=scopes.to_wire(scope)) for name, scope in load.parts
        ),
        collections=map(collection, load.definitions),
    )


def _fill_checkpoint(message: pb.Checkpoint, checkpoint: Checkpoint, step: Step) -> None:
    message.version = step.cursor.position
    message.history_id = str(step.cursor.history_id)
    message.store_id = str(step.cursor.store_id)
    message.complete = checkpoint.complete
    message.digests.extend(map(part_digest, checkpoint.digests))
    message.collections.extend(map(collection, checkpoint.definitions or ()))
    message.marks.extend(_marks(checkpoint.marks))


def _marks(marks: Iterable[tuple[int, int]]) -> Iterable[pb.MutationMark]:
    return (pb.MutationMark(epoch=epoch, sequence=sequence) for epoch, sequence in marks)
