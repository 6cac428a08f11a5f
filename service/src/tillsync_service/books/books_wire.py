"""Between BooksService's messages and what the books work with. Pure."""

from datetime import date

from tillsync.v1 import books_service_pb2 as pb
from tillsync_service.books import claims, wire
from tillsync_service.books.books_store import Listed, Standing
from tillsync_service.books.claims import Span
from tillsync_service.books.missing import Lacking, Row, day_state
from tillsync_service.foundation.errors import InvalidRequest


def day(field: str, text: str) -> date:
    """The day in `text`. Raises InvalidRequest."""
    return date.fromisoformat(claims.day_name(field, text))


def waived(request: pb.WaiveRequest) -> Span | date:
    """The numbers or the day that a request names. Raises InvalidRequest."""
    if request.HasField("span") == bool(request.business_day):
        raise InvalidRequest("span", "Either numbers of an outbox, or a business_day.")
    if request.business_day:
        return day("business_day", request.business_day)
    return claims.span("span", request.span)


def list_missing_response(listed: Listed) -> pb.ListMissingResponse:
    return pb.ListMissingResponse(
        devices=map(_device_missing, listed.devices),
        next_page_token=listed.next_token,
        devices_examined=listed.examined,
    )


def device_day(standing: Standing) -> pb.DeviceDay:
    row = standing.device
    message = pb.DeviceDay(
        device_id=str(row["device_id"]),
        device_name=row["name"],
        state=day_state(standing.held, claimed=row["claimed"]),
        revision=standing.held.revision,
        books=wire.books(standing.held.books),
    )
    if standing.last_heard_at is not None:
        message.last_heard_at.FromDatetime(standing.last_heard_at)
    return message


def waiver(row: Row) -> pb.Waiver:
    message = pb.Waiver(
        epoch=row["epoch"],
        first=row["first"],
        last=row["last"],
        business_day=_day_text(row["business_day"]),
        reason=row["reason"],
        waived_by=row["waived_by"],
    )
    message.waived_at.FromDatetime(row["waived_at"])
    return message


def _device_missing(one: Lacking) -> pb.DeviceMissing:
    message = pb.DeviceMissing(
        device_id=str(one.device["device_id"]),
        device_name=one.device["name"],
        store_id=str(one.device["store_id"]),
        store_code=one.device["store_code"],
        holes=[wire.span(Span(row["epoch"], row["first"], row["last"])) for row in one.holes],
        missing_events=one.missing_events,
        days=map(_difference, one.differences),
        waivers=map(waiver, one.waivers),
    )
    if one.last_heard_at is not None:
        message.last_heard_at.FromDatetime(one.last_heard_at)
    if one.fork is not None:
        message.fork.CopyFrom(_fork(one.fork))
    return message


def _fork(row: Row) -> pb.Fork:
    message = pb.Fork(events=row["events"], epoch=row["epoch"], sequence=row["sequence"])
    message.noticed_at.FromDatetime(row["noticed_at"])
    return message


def _difference(row: Row) -> pb.DayDifference:
    message = pb.DayDifference(
        business_day=_day_text(row["business_day"]),
        currency=row["currency"],
        missing_events=row["missing_events"],
        missing_minor=str(row["missing_minor"]),
    )
    message.claimed_at.FromDatetime(row["claimed_at"])
    return message


def _day_text(business_day: date | None) -> str:
    """Empty for the events that declared none."""
    return business_day.isoformat() if business_day else ""
