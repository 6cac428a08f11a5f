"""Between ProjectionService's messages and what the projections work with. Pure."""

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from google.protobuf.json_format import MessageToJson
from google.protobuf.timestamp_pb2 import Timestamp

from tillsync.v1 import projection_service_pb2 as pb
from tillsync.v1.event_pb2 import Event
from tillsync_service.foundation import fields, limits
from tillsync_service.foundation.db import Row
from tillsync_service.foundation.errors import InvalidRequest
from tillsync_service.foundation.pages import Page
from tillsync_service.projections.dead_letters import Asked, Done, Filter
from tillsync_service.projections.enrich import message_of
from tillsync_service.projections.rebuilding import Progress

_REASON = "DEAD_LETTER_REASON_"
_STATE = "DEAD_LETTER_STATE_"
_REASONS = pb.DeadLetterReason.DESCRIPTOR.values_by_number
_STATES = pb.DeadLetterState.DESCRIPTOR.values_by_number


def asked(
    request: pb.ListDeadLettersRequest | pb.ReplayDeadLettersRequest | pb.DiscardDeadLettersRequest,
    most: int,
    *,
    dry_run: bool = False,
) -> Asked:
    """The page that a request asks for, of at most `most`. Raises InvalidRequest."""
    if not 0 <= request.page_size <= most:
        raise InvalidRequest("page_size", f"1 to {most:,}, or 0 for the default.")
    return Asked(
        _chosen(request.filter),
        position("after", request.after),
        request.page_size or limits.DEFAULT_PAGE_SIZE,
        dry_run,
    )


def state(value: "pb.DeadLetterState.ValueType") -> str:
    """As the store names it; empty: any. Raises InvalidRequest."""
    if value not in _STATES:
        raise InvalidRequest("state", "No DeadLetterState.")
    return _STATES[value].name.removeprefix(_STATE).lower() if value else ""


def position(field: str, value: int) -> int:
    """The position. Raises InvalidRequest."""
    if value < 0:
        raise InvalidRequest(field, "A position is not negative.")
    return value


def list_projections_response(page: Page) -> pb.ListProjectionsResponse:
    return pb.ListProjectionsResponse(
        projections=map(_projection, page.rows), next_page_token=page.next_token
    )


def list_dead_letters_response(rows: Iterable[Row], *, more: bool) -> pb.ListDeadLettersResponse:
    return pb.ListDeadLettersResponse(dead_letters=map(_dead_letter, rows), more=more)


def get_dead_letter_response(letter: Row, event: Row | None) -> pb.GetDeadLetterResponse:
    response = pb.GetDeadLetterResponse(dead_letter=_dead_letter(letter))
    if event is not None:
        response.event.CopyFrom(_event(event))
        message = message_of(event["type_url"], event["body"])
        if message is not None:
            response.body_json = MessageToJson(message, preserving_proto_field_name=True)
    return response


def replay_response(done: Done) -> pb.ReplayDeadLettersResponse:
    return pb.ReplayDeadLettersResponse(
        replayed=done.tried, revived=done.changed, last_position=done.last, more=done.more
    )


def discard_response(done: Done) -> pb.DiscardDeadLettersResponse:
    return pb.DiscardDeadLettersResponse(
        discarded=done.changed, last_position=done.last, more=done.more
    )


def rebuild_response(tenant_id: UUID, progress: Progress) -> pb.RebuildResponse:
    return pb.RebuildResponse(
        tenant_id=str(tenant_id),
        progress=pb.RebuildProgress(
            done_events=progress.done,
            total_events=progress.total,
            started_by=progress.started_by,
            started_at=_timestamp(progress.started_at),
        ),
        joined=progress.joined,
        finished=progress.finished,
    )


def _chosen(message: pb.DeadLetterFilter) -> Filter:
    if message.reason not in _REASONS:
        raise InvalidRequest("filter.reason", "No DeadLetterReason.")
    for name in ("from_position", "to_position"):
        position(f"filter.{name}", getattr(message, name))
    type_name = message.type
    if type_name:
        fields.text("filter.type", type_name, limits.MAX_TYPE_URL_CHARACTERS)
    store_id = fields.uuid("filter.store_id", message.store_id) if message.store_id else None
    reason = _REASONS[message.reason].name.removeprefix(_REASON) if message.reason else ""
    return Filter(message.from_position, message.to_position, reason, type_name, store_id)


def _projection(row: Row) -> pb.Projection:
    message = pb.Projection(
        tenant_id=str(row["tenant_id"]),
        position=row["position"],
        lag_events=max(row["lag"], 0),
        projected_at=_timestamp(row["projected_at"]),
        dead_letters_waiting=row["waiting"],
        dead_letters_discarded=row["discarded"],
    )
    if row["rebuild_position"] is not None:
        message.rebuild.CopyFrom(
            pb.RebuildProgress(
                done_events=row["rebuild_position"] - row["rebuild_from"],
                total_events=max(row["rebuild_until"] - row["rebuild_from"], 0),
                started_by=row["rebuild_by"],
                started_at=_timestamp(row["rebuild_started_at"]),
            )
        )
    return message


def _dead_letter(row: Row) -> pb.DeadLetter:
    return pb.DeadLetter(
        position=row["position"],
        key=row["key"],
        store_id=str(row["store_id"]),
        device_id=str(row["device_id"]),
        type_url=row["type_url"],
        reason=pb.DeadLetterReason.Value(_REASON + row["reason"]),
        field=row["field"],
        description=row["description"],
        attempts=row["attempts"],
        first_failed_at=_timestamp(row["first_failed_at"]),
        last_failed_at=_timestamp(row["last_failed_at"]),
        state=pb.DeadLetterState.Value(_STATE + row["state"].upper()),
        discarded_by=row["discarded_by"] or "",
        discarded_because=row["discarded_because"] or "",
        discarded_at=_timestamp(row["discarded_at"]),
    )


def _event(row: Row) -> Event:
    event = Event(
        key=row["key"],
        occurred_at=_timestamp(row["occurred_at"]),
        business_day=row["business_day"] or "",
        outbox_epoch=row["outbox_epoch"],
        device_sequence=row["device_sequence"],
        clock_offset_ms=row["clock_offset_ms"],
        traceparent=row["traceparent"],
    )
    event.body.type_url = row["type_url"]
    event.body.value = row["body"]
    return event


def _timestamp(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    timestamp = Timestamp()
    timestamp.FromDatetime(moment)
    return timestamp
