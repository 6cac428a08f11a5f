"""Between the contract's messages and what the feed works with. Pure."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from uuid import UUID

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from tillsync.v1 import feed_service_pb2 as pb
from tillsync.v1.event_pb2 import EventFlag
from tillsync_service.feed import cursors
from tillsync_service.feed.store import Consumers, Head, Page, Wanted
from tillsync_service.foundation import fields, limits
from tillsync_service.foundation.db import Row
from tillsync_service.foundation.errors import InvalidRequest
from tillsync_service.foundation.eventflags import flags_of

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_SECONDS = 86_400
_UNDECLARED = 1 << EventFlag.EVENT_FLAG_DAY_UNDECLARED
_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1


def wanted_of(request: pb.SubscribeRequest) -> Wanted:
    """What the request wants in a page. Raises InvalidRequest naming the field."""
    if not 0 <= request.page_size <= limits.MAX_FEED_PAGE_EVENTS:
        raise InvalidRequest(
            "page_size", f"1 to {limits.MAX_FEED_PAGE_EVENTS:,}, or 0 for the default."
        )
    asked = request.filter
    return Wanted(
        page_events=request.page_size or limits.DEFAULT_FEED_PAGE_EVENTS,
        type_urls=_types(asked.type_urls) or None,
        store_ids=_stores(asked.store_ids) or None,
        received_from=_time(asked, "received_from"),
        received_before=_time(asked, "received_before"),
    )


def consumer_of(name: str) -> str:
    """A consumer's name. Raises InvalidRequest."""
    return fields.text("consumer", name, limits.MAX_CONSUMER_CHARACTERS)


async def page_message(tenant_id: UUID, page: Page) -> pb.SubscribeResponse:
    """The page as a message, made little by little: the loop is everybody's."""
    message = pb.SubscribeResponse(
        cursor=cursors.encoded(tenant_id, page.cursor),
        head_position=page.head_position,
        caught_up=page.caught_up,
        history_id=str(page.cursor.history_id),
    )
    rows = page.rows
    for start in range(0, len(rows), limits.FEED_SLICE_EVENTS):
        if start:
            await asyncio.sleep(0)
        for row in rows[start : start + limits.FEED_SLICE_EVENTS]:
            _add_event(message, row)
    return message


def consumer_messages(consumers: Consumers) -> list[pb.FeedConsumer]:
    return [_consumer(row, consumers.head) for row in consumers.rows]


def _consumer(row: Row, head: Head) -> pb.FeedConsumer:
    has_changed = row["history_id"] != head.history_id
    message = pb.FeedConsumer(
        name=row["name"],
        position=row["position"],
        lag_events=head.position if has_changed else head.position - row["position"],
        history_changed=has_changed,
    )
    message.committed_at.FromDatetime(row["committed_at"])
    return message


def _add_event(message: pb.SubscribeResponse, row: Row) -> None:
    """Field by field, and by place: two thirds of the service's time for a page."""
    (
        position,
        key,
        store_id,
        device_id,
        outbox_epoch,
        device_sequence,
        received_at,
        occurred_at,
        business_day,
        clock_offset_ms,
        flags,
        type_url,
        body,
        amounts,
        traceparent,
        _,
    ) = row
    sent = message.events.add(
        position=position, store_id=_text(store_id), device_id=_text(device_id)
    )
    _set_time(sent.received_at, received_at)
    if flags:
        sent.flags.extend(flags_of(flags))
    event = sent.event
    event.key = key
    event.body.type_url = type_url
    event.body.value = body
    if occurred_at is not None:
        _set_time(event.occurred_at, occurred_at)
    if not flags & _UNDECLARED:
        event.business_day = _day(business_day)
    event.outbox_epoch = outbox_epoch
    event.device_sequence = device_sequence
    if clock_offset_ms is not None:
        event.clock_offset_ms = clock_offset_ms
    if traceparent:
        event.traceparent = traceparent
    for currency, total in json.loads(amounts).items():
        for minor_units in _portions(total):
            event.amounts.add(currency=currency, minor_units=minor_units)


def _portions(total: int) -> Iterator[int]:
    """Numbers that the contract can hold, and that add up to the total: a device may have sent
    several amounts of one currency that add up to more."""
    while not _INT64_MIN <= total <= _INT64_MAX:
        portion = _INT64_MAX if total > 0 else _INT64_MIN
        total -= portion
        yield portion
    yield total


def _set_time(target: Timestamp, moment: datetime) -> None:
    # FromDatetime takes several times as long.
    since: timedelta = moment - _EPOCH
    target.seconds = since.days * _DAY_SECONDS + since.seconds
    target.nanos = since.microseconds * 1000


@lru_cache(maxsize=10_000)
def _text(uuid: UUID) -> str:
    """Of stores and devices, of which there are few."""
    return str(uuid)


@lru_cache(maxsize=1_000)
def _day(day: date) -> str:
    return day.isoformat()


def _types(type_urls: Sequence[str]) -> list[str]:
    if len(type_urls) > limits.MAX_FEED_TYPES:
        raise InvalidRequest("filter.type_urls", f"At most {limits.MAX_FEED_TYPES}.")
    return [
        fields.text("filter.type_urls", type_url, limits.MAX_TYPE_URL_CHARACTERS)
        for type_url in type_urls
    ]


def _stores(store_ids: Sequence[str]) -> list[UUID]:
    if len(store_ids) > limits.MAX_FEED_STORES:
        raise InvalidRequest("filter.store_ids", f"At most {limits.MAX_FEED_STORES:,}.")
    return [fields.uuid("filter.store_ids", store_id) for store_id in store_ids]


def _time(asked: Message, name: str) -> datetime | None:
    if not asked.HasField(name):
        return None
    try:
        moment: datetime = getattr(asked, name).ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise InvalidRequest(f"filter.{name}", "A time of the years 1 to 9999.") from None
    return moment
