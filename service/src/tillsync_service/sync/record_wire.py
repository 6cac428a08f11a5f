"""Between RecordService's messages and what operators work with. Pure."""

import re
from collections.abc import Iterable, Sequence

from tillsync.v1 import record_service_pb2 as pb
from tillsync.v1.record_pb2 import Collection, Policy
from tillsync.v1.sync_service_pb2 import Mutation, MutationKind, MutationOutcome, PartDigest
from tillsync_service.foundation import fields, limits
from tillsync_service.foundation.db import Row
from tillsync_service.foundation.errors import InvalidRequest
from tillsync_service.sync import bodies, scopes
from tillsync_service.sync.imports import Destination, Refused
from tillsync_service.sync.record_store import Definition, collection_unknown
from tillsync_service.sync.store import Published

_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")


def definition(message: Collection) -> Definition:
    """Raises InvalidRequest."""
    if not _NAME.fullmatch(message.name):
        raise InvalidRequest(
            "collection.name",
            f"Lower-case letters, digits and _, beginning with a letter; at most "
            f"{limits.MAX_COLLECTION_CHARACTERS}.",
        )
    if message.policy not in Policy.values() or not message.policy:
        raise InvalidRequest("collection.policy", "SERVER_WINS, ARRIVAL_WINS or MANUAL.")
    keys = [_lookup_key(key) for key in message.lookup_keys]
    if len(keys) > limits.MAX_LOOKUP_KEYS or len(set(keys)) < len(keys):
        raise InvalidRequest(
            "collection.lookup_keys", f"At most {limits.MAX_LOOKUP_KEYS}, each once."
        )
    policy = Policy.Name(message.policy).removeprefix("POLICY_").lower()
    return Definition(message.name, policy, keys, message.load_order)


def _lookup_key(name: str) -> str:
    if {'"', "\\"} & set(name):  # the devices' databases have no way to name such a field
        raise InvalidRequest("collection.lookup_keys", 'No " and no \\ in the name of a field.')
    return fields.text("collection.lookup_keys", name, limits.MAX_LOOKUP_KEY_CHARACTERS)


def collection(row: Row) -> Collection:
    return Collection(
        name=row["name"],
        policy=Policy.Value(f"POLICY_{row['policy'].upper()}"),
        lookup_keys=row["lookup_keys"],
        load_order=row["load_order"],
    )


def totals(rows: Iterable[Row], digests: Iterable[Row]) -> list[pb.CollectionTotals]:
    """Collections with their parts."""
    by_name = {row["name"]: pb.CollectionTotals(collection=collection(row)) for row in rows}
    for row in digests:
        by_name[row["collection"]].parts.append(
            PartDigest(
                collection=row["collection"],
                store_id=scopes.to_wire(row["scope"]),
                record_count=row["record_count"],
                digest=bodies.digest_bytes(int(row["digest"])),
            )
        )
    return list(by_name.values())


def collection_name(field: str, name: str) -> str:
    """`name`, if a collection can be called so. Raises InvalidRequest."""
    if not _NAME.fullmatch(name):
        raise collection_unknown(field, name)
    return name


def record_id(field: str, text: str) -> str:
    """`text`, if a record can have this id. Raises InvalidRequest."""
    if not bodies.is_record_id(text):
        raise InvalidRequest(field, f"1 to {limits.MAX_RECORD_ID_CHARACTERS} characters, no NUL.")
    return text


def destination(request: pb.ImportRecordsRequest | None) -> Destination:
    """What an import's first message says; None: there was none. Raises InvalidRequest."""
    if request is None or not request.HasField("settings"):
        raise InvalidRequest("settings", "The first message says where the records go.")
    if request.record_ids or request.bodies:
        raise InvalidRequest("record_ids", "The records come in messages after the settings.")
    said = request.settings
    return Destination(
        fields.uuid("settings.tenant_id", said.tenant_id),
        collection_name("settings.collection", said.collection),
        scopes.of_wire("settings.store_id", said.store_id),
        said.atomic,
        said.complete,
    )


def records(request: pb.ImportRecordsRequest) -> tuple[Sequence[str], Sequence[str]]:
    """The ids and bodies of a further message. Raises InvalidRequest."""
    if request.HasField("settings"):
        raise InvalidRequest("settings", "In the first message, and in no other.")
    return request.record_ids, request.bodies


def staged(count: int, refused: Iterable[Refused]) -> pb.ImportRecordsResponse:
    return pb.ImportRecordsResponse(
        staged=count,
        refused=[
            pb.RefusedRecord(
                index=one.index,
                record_id=one.record_id,
                field=one.field,
                description=one.description,
            )
            for one in refused
        ],
    )


def published(count: int, refused: int, result: Published) -> pb.ImportRecordsResponse:
    return pb.ImportRecordsResponse(
        staged=count,
        result=pb.ImportResult(
            changed=result.changed,
            unchanged=result.unchanged,
            deleted=result.deleted,
            refused=refused,
            version=result.version,
        ),
    )


def page_size(asked: int) -> int:
    """Raises InvalidRequest."""
    if not 0 <= asked <= limits.MAX_PAGE_SIZE:
        raise InvalidRequest("page_size", f"1 to {limits.MAX_PAGE_SIZE:,}, or 0 for the default.")
    return asked or limits.DEFAULT_PAGE_SIZE


def choice(chosen: "pb.ResolutionChoice.ValueType") -> str:
    """Raises InvalidRequest."""
    if chosen not in pb.ResolutionChoice.values() or not chosen:
        raise InvalidRequest("choice", "KEEP or APPLY.")
    return pb.ResolutionChoice.Name(chosen).removeprefix("RESOLUTION_CHOICE_").lower()


def conflict(row: Row) -> pb.Conflict:
    message = pb.Conflict(
        conflict_id=row["conflict_id"],
        device_id=str(row["device_id"]),
        epoch=row["epoch"],
        mutation=Mutation(
            sequence=row["sequence"],
            collection=row["collection"],
            store_id=scopes.to_wire(row["scope"]),
            record_id=row["record_id"],
            kind=MutationKind.Value(f"MUTATION_KIND_{row['kind'].upper()}"),
            base_version=row["base_version"],
            body=row["edit_body"],
        ),
        met_body=row["met_body"],
        met_version=row["met_version"],
        outcome=MutationOutcome.Value(f"MUTATION_OUTCOME_{row['outcome'].upper()}"),
        reason=row["reason"],
    )
    message.occurred_at.FromDatetime(row["occurred_at"])
    if row["choice"] is not None:
        message.resolution.choice = pb.ResolutionChoice.Value(
            f"RESOLUTION_CHOICE_{row['choice'].upper()}"
        )
        message.resolution.decided_by = row["decided_by"]
        message.resolution.decided_at.FromDatetime(row["decided_at"])
        message.resolution.version = row["decided_version"]
    return message
