"""What becomes of a device's edits: who wins, and what a record is then. Pure.

An edit is made on the version of the record that the device had, its base. The base is fresh if the
record has that version still, or if only this device's own edits came after it. Then the edit is
applied, and an ADD always unless the record was deleted. Otherwise the collection's policy decides;
no clock takes part.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias
from uuid import UUID

from tillsync.v1.error_reason_pb2 import ErrorReason
from tillsync_service.foundation.errors import reason_name
from tillsync_service.sync import bodies
from tillsync_service.sync.bodies import NotStorable
from tillsync_service.sync.scopes import TENANT

RecordKey: TypeAlias = tuple[str, UUID, str]
"""Collection, scope and id."""

_STALE = reason_name(ErrorReason.ERROR_REASON_BASE_STALE)
_GONE = reason_name(ErrorReason.ERROR_REASON_RECORD_GONE)
_NOT_STORABLE = reason_name(ErrorReason.ERROR_REASON_RECORD_NOT_STORABLE)
_UNKNOWN = reason_name(ErrorReason.ERROR_REASON_COLLECTION_UNKNOWN)

_NOT_ITS_STORE = reason_name(ErrorReason.ERROR_REASON_PERMISSION_DENIED)

# What a policy makes of an edit on a stale base.
_OUTCOMES = {"server_wins": "lost", "arrival_wins": "won", "manual": "parked"}
# Whole numbers that every language and database can hold.
_MOST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Edit:
    """One edit as it came. `kind`: put, patch, add or delete. `digest`: of the whole message."""

    sequence: int
    key: RecordKey
    kind: str
    base_version: int
    body: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class Known:
    """A record as it is; `body` None: it was deleted. `edited_by` made this version, in a run of
    edits that began on the version `edited_from`."""

    version: int
    body: str | None
    edited_by: UUID | None = None
    edited_from: int = 0


@dataclass(frozen=True, slots=True)
class Result:
    """What became of an edit. `version`: the one it made; 0: none. Reason, field and description
    as in the contract's Refusal."""

    outcome: str
    version: int = 0
    reason: str = ""
    field: str = ""
    description: str = ""


@dataclass(frozen=True, slots=True)
class Conflict:
    """An edit that met a record that had changed, with both sides."""

    conflict_id: int
    edit: Edit
    met: Known | None
    outcome: str
    description: str


@dataclass(slots=True)
class Judgement:
    """`results` one per edit, in order; `records` as they are afterwards, the changed ones only;
    `head` after it: each new version and each conflict takes the next number."""

    head: int
    results: list[Result] = field(default_factory=list)
    records: dict[RecordKey, Known] = field(default_factory=dict)
    conflicts: list[Conflict] = field(default_factory=list)

    def write(self, edit: Edit, record: Known) -> None:
        """The record after an edit, at the next version."""
        self.head += 1
        self.records[edit.key] = replace(record, version=self.head)

    def keep_both_sides(self, edit: Edit, met: Known | None, result: Result) -> None:
        self.head += 1
        description = result.description or _stale_sentence(edit, met)
        self.conflicts.append(Conflict(self.head, edit, met, result.outcome, description))


class NotApplicable(Exception):
    """The edit can never be applied to this record; `result` says why."""

    def __init__(self, outcome: str, reason: str, field: str, description: str) -> None:
        super().__init__(description)
        self.result = Result(outcome, 0, reason, field, description)


@dataclass(frozen=True, slots=True)
class Setting:
    """What edits are judged by: who made them, where that device stands, where the records stand,
    and each collection's policy."""

    device_id: UUID
    store_id: UUID
    head: int
    horizon: int
    policies: Mapping[str, str]


def judge(edits: Iterable[Edit], setting: Setting, known: Mapping[RecordKey, Known]) -> Judgement:
    """What becomes of the edits of one device, in their order, on records as `known`."""
    judgement = Judgement(setting.head)
    device_id = setting.device_id
    for edit in edits:
        met = judgement.records.get(edit.key) or known.get(edit.key)
        met_body = met.body if met else None
        try:
            outcome = _decided(edit, met, setting)
            body = applied(edit.kind, edit.body, met_body, edit.key[2])
        except NotApplicable as refusal:
            result = refusal.result
        else:
            result = Result(outcome)
            if outcome in {"lost", "parked"}:
                result = Result(outcome, 0, _STALE, "base_version", _stale_sentence(edit, met))
            elif body != met_body:
                edited_from = _edited_from(edit, met, device_id, outcome)
                judgement.write(edit, Known(0, body, device_id, edited_from))
                result = Result(outcome, judgement.head)
        if result.outcome in {"won", "lost", "parked"}:
            judgement.keep_both_sides(edit, met, result)
        judgement.results.append(result)
    return judgement


def applied(kind: str, edit_body: str, met_body: str | None, record_id: str) -> str | None:
    """The record after an edit of this kind, None if it goes. Raises NotApplicable."""
    if kind == "delete":
        return None
    try:
        fields = bodies.parsed(edit_body)
        if kind == "put":
            return bodies.canonical(fields)
        if kind == "patch" and met_body is None:
            raise NotApplicable("lost", _GONE, "record_id", f"There is no record {record_id!r}.")
        present = {} if met_body is None else bodies.parsed(met_body)
        change = _patched if kind == "patch" else _added
        return bodies.canonical(change(present, fields))
    except NotStorable as refusal:
        raise NotApplicable("rejected", _NOT_STORABLE, "body", str(refusal)) from None


def _patched(present: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in present.items() if name not in fields}
    return kept | {name: value for name, value in fields.items() if value is not None}


def _added(present: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    for name, delta in fields.items():
        before = present.get(name, 0)
        if not (_is_whole(delta) and _is_whole(before)):
            raise NotStorable(f"{name!r} is no whole number of 64 bits, here or in the record.")
        if not _is_whole(before + delta):
            raise NotStorable(f"{name!r} would grow beyond 64 bits.")
        present[name] = before + delta
    return present


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -_MOST <= value <= _MOST


def _decided(edit: Edit, met: Known | None, setting: Setting) -> str:
    """The outcome, if the edit can be applied at all. Raises NotApplicable."""
    policy = setting.policies.get(edit.key[0])
    if edit.key[1] not in {TENANT, setting.store_id}:
        raise NotApplicable(
            "rejected", _NOT_ITS_STORE, "store_id", "The device does not belong to this store."
        )
    if policy is None:
        raise NotApplicable(
            "rejected", _UNKNOWN, "collection", f"There is no collection {edit.key[0]!r}."
        )
    if _is_fresh(edit, met, setting):
        return "applied"
    outcome = _OUTCOMES[policy]
    if met is None or met.body is None:
        # Deleted after the device had it: only a whole new one can follow it, and only while its
        # deletion is known.
        is_known = met is not None and edit.base_version >= setting.horizon
        if edit.kind != "put" or outcome == "lost" or not is_known:
            raise NotApplicable(
                "lost", _GONE, "record_id", f"The record {edit.key[2]!r} was deleted meanwhile."
            )
    return outcome


def _is_fresh(edit: Edit, met: Known | None, setting: Setting) -> bool:
    if met is None or met.body is None:
        # The device had none either. To delete what is gone changes nothing.
        if edit.base_version == 0 or edit.kind == "delete":
            return True
        # A deletion after its base would be known, or forgotten behind the horizon. If neither can
        # be, the record is younger than the backup that was restored: a movement of it counts.
        last_deletion = max(setting.horizon, met.version if met else 0)
        if edit.kind == "add" and edit.base_version >= last_deletion:
            return True
        if met is None:
            return False
    return (
        edit.base_version == met.version
        or (edit.kind == "add" and met.body is not None)
        or (met.edited_by == setting.device_id and edit.base_version >= met.edited_from)
    )


def _edited_from(edit: Edit, met: Known | None, device_id: UUID, outcome: str) -> int:
    """The version on which this device's run of edits began."""
    if outcome == "won":
        return edit.base_version
    if met is not None and met.edited_by == device_id:
        return met.edited_from
    return met.version if met else 0


def _stale_sentence(edit: Edit, met: Known | None) -> str:
    version = met.version if met else 0
    if edit.base_version > version:
        return f"Made on version {edit.base_version}, which this history does not know."
    return f"Made on version {edit.base_version}; the record has version {version} since."
