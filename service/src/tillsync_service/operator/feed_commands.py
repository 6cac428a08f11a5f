"""Who reads a tenant's events, how far they are, and the events themselves."""

import base64
import json
from collections.abc import Iterable
from contextlib import aclosing
from datetime import datetime
from uuid import UUID

import click
from google.protobuf import json_format
from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError

from tillsync.v1 import feed_service_pb2 as pb
from tillsync.v1 import retail_pb2
from tillsync.v1.event_pb2 import EventFlag
from tillsync_service.operator.client import Service
from tillsync_service.operator.options import as_json_option, of_tenant
from tillsync_service.operator.output import columns_of, row_of, show_rows
from tillsync_service.operator.running import on_service

_KNOWN_BODIES = {
    kind.full_name: getattr(retail_pb2, name)
    for name, kind in retail_pb2.DESCRIPTOR.message_types_by_name.items()
}


@click.group()
def feed() -> None:
    """The events of a tenant in their one order, and who reads them.

    \b
    Example: tillsync-service feed consumers --tenant 018f2a5e-7c3b-7d10-8a4e-3b1c9d2e5f60
    """


@feed.command()
@of_tenant
@as_json_option
@on_service()
async def consumers(service: Service, *, tenant: UUID, as_json: bool) -> None:
    """List a tenant's consumers: how far each has committed, how many events come after that, and
    when it last committed. Into a pipe: lines of tab-separated values.

    \b
    Example: tillsync-service feed consumers --tenant $TENANT --json
    """
    request = pb.ListConsumersRequest(tenant_id=str(tenant))
    answer = await service.operate(service.feed.ListConsumers, request)
    rows = [row_of(consumer) for consumer in answer.consumers]
    show_rows(columns_of(pb.FeedConsumer), rows, as_json=as_json)


@feed.command("delete-consumer")
@click.argument("name")
@of_tenant
@on_service()
async def delete_consumer(service: Service, *, name: str, tenant: UUID) -> None:
    """Forget how far the consumer NAME has come. If it reads on, it begins where its cursor says,
    and without one at the beginning.

    \b
    Example: tillsync-service feed delete-consumer old-warehouse --tenant $TENANT
    """
    request = pb.DeleteConsumerRequest(tenant_id=str(tenant), consumer=name)
    await service.operate(service.feed.DeleteConsumer, request)


@feed.command()
@of_tenant
@click.option("--new", "from_head", is_flag=True, help="Only what is stored from now on.")
@click.option("--follow", "-f", is_flag=True, help="Go on until Ctrl-C.")
@click.option("--consumer", default="", metavar="NAME", help="From where NAME has committed.")
@click.option("--store", "stores", type=click.UUID, multiple=True, help="Of this store; repeat.")
@click.option("--type", "types", metavar="URL", multiple=True, help="Of this type; repeat.")
@click.option("--since", type=click.DateTime(), help="Received since, UTC.")
@on_service()
async def tail(
    service: Service,
    *,
    tenant: UUID,
    from_head: bool,
    follow: bool,
    consumer: str,
    stores: Iterable[UUID],
    types: Iterable[str],
    since: datetime | None,
) -> None:
    """Print events, the oldest first, each as a line of JSON. Commits nothing: no consumer moves.

    A body of a type that this program does not know is printed as base64.

    \b
    Example: tillsync-service feed tail --tenant $TENANT --new --follow
    Example: tillsync-service feed tail --tenant $TENANT --since 2026-11-22 | jq .event.amounts
    """
    request = pb.SubscribeRequest(
        tenant_id=str(tenant),
        from_head=from_head,
        live=follow,
        consumer=consumer,
        filter=pb.FeedFilter(type_urls=types, store_ids=map(str, stores)),
    )
    if since is not None:
        request.filter.received_from.FromDatetime(since)
    while True:
        page = pb.SubscribeResponse()
        async with aclosing(service.answers(service.feed.Subscribe, request)) as pages:
            async for page in pages:
                for event in page.events:
                    click.echo(json.dumps(_shown(event)))
        if page.caught_up and not follow:
            return
        request.cursor = page.cursor  # a stream ends after some minutes


def _shown(sent: pb.FeedEvent) -> dict[str, object]:
    body = sent.event.body
    bare = pb.FeedEvent()
    bare.CopyFrom(sent)
    bare.event.ClearField("body")
    shown: dict[str, object] = json_format.MessageToDict(bare, preserving_proto_field_name=True)
    shown["position"] = sent.position  # a number, where a JSON of protobuf's has a text
    shown["flags"] = [_spelt(flag) for flag in sent.flags]
    event = shown.setdefault("event", {})
    if isinstance(event, dict):
        event["body"] = {"type_url": body.type_url, **_read(body)}
    return shown


def _spelt(flag: "EventFlag.ValueType") -> str:
    try:
        return EventFlag.Name(flag).removeprefix("EVENT_FLAG_").lower()
    except ValueError:  # a newer service's
        return str(flag)


def _read(body: Any) -> dict[str, object]:
    """What the body says, where it is of a known type, and the bytes otherwise."""
    known = _KNOWN_BODIES.get(body.type_url.rpartition("/")[2])
    if known is not None:
        try:
            message = known.FromString(body.value)
        except DecodeError:
            pass
        else:
            return {"value": json_format.MessageToDict(message, preserving_proto_field_name=True)}
    return {"base64": base64.b64encode(body.value).decode()}
