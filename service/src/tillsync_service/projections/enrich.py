"""From an event to its rows, or to the reason why it has none. Pure.

What breaks a business rule was accepted by ingest, and ends here as a dead letter. Types that are
not of retail.proto are nobody's mistake: they are skipped.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from functools import lru_cache
from typing import Any, NamedTuple

import structlog
from google.protobuf.message import DecodeError, Message

from tillsync.v1 import retail_pb2 as pb
from tillsync_service.foundation import limits
from tillsync_service.projections.reasons import Reason, Unprojectable, Why
from tillsync_service.projections.rows import Dead, Recorded, Rows

log = structlog.get_logger(__name__)

UNDECLARED_DAY = "-infinity"
_INT64 = range(-(2**63), 2**63)
_CURRENCY = re.compile(r"[A-Z]{3}")
_MAX_SCALE = 18


def enrich(events: Iterable[Recorded], rows: Rows) -> None:
    """Adds what the events become to `rows`. One that cannot be projected hinders no other."""
    for event in events:
        kind = _kind_of(event.type_url)
        if kind is None:
            rows.skipped.append(event.position)
            continue
        try:
            message = kind.parse(event.body)
            if b"\0" in event.body:
                _must_be_storable(message)
            kind.add(rows, event, message)
        except Unprojectable as error:
            rows.dead.append(Dead(event, error.why))
        except DecodeError:
            rows.dead.append(Dead(event, _UNREADABLE))
        except Exception as error:  # whatever it is, it is of this one event
            log.exception("event_not_projected", position=event.position, exc_info=error)
            rows.dead.append(Dead(event, _FAILED))


def message_of(type_url: str, body: bytes) -> Message | None:
    """The body, where its type is known and it can be read."""
    kind = _kind_of(type_url)
    try:
        return kind.parse(body) if kind else None
    except DecodeError:
        return None


_UNREADABLE = Why(Reason.BODY_UNREADABLE, "body", "The body is not of the type that it names.")
_FAILED = Why(Reason.PROJECTION_FAILED, "", "The service failed at this event; its log says how.")


def _sale(rows: Rows, event: Recorded, sale: pb.Sale) -> None:
    currency = _currency("currency", sale.currency)
    totals = [line.total_minor for line in sale.lines]
    discount = sum([one.amount_minor for one in sale.discounts])
    tax = added = 0
    for one in sale.taxes:
        tax += one.amount_minor
        added += 0 if one.included else one.amount_minor
    total = sale.total_minor
    owed = sum(totals) - discount + added
    if owed != total:
        raise _wrong_total(total, owed)
    _must_be_money("discounts", discount)
    _must_be_money("taxes", tax)
    _must_be_few(sale.lines, sale.tenders)
    _add_lines(rows, sale.lines, totals, sign=1)
    _add_tenders(rows, sale.tenders)
    rows.sales.append(event)
    rows.sale_facts.append((
        "sale", currency, total, discount, tax,
        sale.receipt_number, sale.cashier_id, sale.customer_id, "", "",
    ))  # fmt: skip


def _return(rows: Rows, event: Recorded, back: pb.Return) -> None:
    currency = _currency("currency", back.currency)
    totals = [line.total_minor for line in back.lines]
    total = back.total_minor
    # Some tills write the lines of a return as money that came in, some as money that went out.
    if sum(totals) == -total:
        totals = [-one for one in totals]
    elif sum(totals) != total:
        raise _wrong_total(total, -sum(totals))
    if total > 0:
        raise Unprojectable(
            Reason.TOTAL_WRONG, "total_minor", f"A return's total is negative, not {total:,}."
        )
    _must_be_few(back.lines, back.tenders)
    _add_lines(rows, back.lines, totals, sign=-1)
    _add_tenders(rows, back.tenders)
    rows.sales.append(event)
    rows.sale_facts.append((
        "return", currency, total, 0, 0, back.receipt_number, "", "", back.sale_key, back.reason,
    ))  # fmt: skip


def _void(rows: Rows, event: Recorded, void: pb.Void) -> None:
    rows.voids.append((event, void.voided_key))


def _cash_movement(rows: Rows, event: Recorded, cash: pb.CashMovement) -> None:
    currency = _unit_of_value("amount.currency", cash.amount.currency)
    rows.movements.append(event)
    rows.movement_facts.append((
        1, "cash", cash.kind, "", "0", currency, cash.amount.minor_units,
        cash.drawer_id, cash.reason,
    ))  # fmt: skip


def _stock_movement(rows: Rows, event: Recorded, stock: pb.StockMovement) -> None:
    if not stock.product_id:
        raise Unprojectable(Reason.TEXT_INVALID, "product_id", "The product is not named.")
    _must_be_products([stock.product_id])
    (quantity,) = _quantities([stock.quantity_change], sign=1)
    rows.movements.append(event)
    rows.movement_facts.append((
        1, "stock", stock.kind, stock.product_id, str(quantity), "", 0, "", stock.reason,
    ))  # fmt: skip


def _day_close(rows: Rows, event: Recorded, close: pb.DayClose) -> None:
    """A row for each currency that was counted; where none was, one without a currency."""
    day = _day("business_day", close.business_day) if close.business_day else event.business_day
    counted: dict[str, int] = {}
    for amount in close.counted_cash:
        currency = _unit_of_value("counted_cash.currency", amount.currency)
        counted[currency] = counted.get(currency, 0) + amount.minor_units
    for amount_minor in counted.values():
        _must_be_money("counted_cash", amount_minor)
    closed = event._replace(business_day=day)
    for number, (currency, amount_minor) in enumerate((counted or {"": 0}).items(), start=1):
        rows.movements.append(closed)
        rows.movement_facts.append((
            number, "count", "", "", "0", currency, amount_minor, "", "",
        ))  # fmt: skip


class _Kind(NamedTuple):
    """How a type is parsed, and what adds its rows: everything is checked before the first is."""

    parse: Callable[[bytes], Any]
    add: Callable[[Rows, Recorded, Any], None]


_KINDS = {
    message.DESCRIPTOR.full_name: _Kind(message.FromString, add)
    for message, add in (
        (pb.Sale, _sale),
        (pb.Return, _return),
        (pb.Void, _void),
        (pb.CashMovement, _cash_movement),
        (pb.StockMovement, _stock_movement),
        (pb.DayClose, _day_close),
    )
}


@lru_cache(maxsize=1024)
def _kind_of(type_url: str) -> _Kind | None:
    """As google.protobuf.Any reads it: what stands after the last slash is the type's name."""
    return _KINDS.get(type_url.rpartition("/")[2])


def _add_lines(
    rows: Rows, lines: Sequence[pb.SaleLine], totals: Sequence[int], *, sign: int
) -> None:
    products = [line.product_id for line in lines]
    _must_be_products(products)
    quantities = _quantities([line.quantity for line in lines], sign=sign)
    discounts = [
        sum([one.amount_minor for one in given]) if (given := line.discounts) else 0
        for line in lines
    ]
    if any(discounts):
        for discount in discounts:
            _must_be_money("lines.discounts", discount)
    rows.line_counts.append(len(products))
    rows.products += products
    rows.quantities += quantities
    rows.units += [line.unit for line in lines]
    rows.prices += [line.unit_price_minor for line in lines]
    rows.discounts += discounts
    rows.line_totals += totals


def _add_tenders(rows: Rows, tenders: Sequence[pb.Tender]) -> None:
    rows.tender_counts.append(len(tenders))
    for tender in tenders:
        rows.tender_kinds.append(tender.kind)
        rows.tender_amounts.append(tender.amount_minor)
        rows.tender_references.append(tender.reference)


def _quantities(decimals: Sequence[pb.Decimal], *, sign: int) -> list[int | str]:
    """Numbers as Postgres reads them, with the digits that were written."""
    digits = [sign * decimal.unscaled for decimal in decimals]
    scales = [decimal.scale for decimal in decimals]
    if not any(scales):
        return [*digits]
    if max(scales) > _MAX_SCALE:
        raise Unprojectable(
            Reason.DECIMAL_INVALID, "quantity", "A decimal has at most 18 digits after its point."
        )
    return [f"{number}e-{scale}" for number, scale in zip(digits, scales, strict=True)]


def _must_be_products(products: Sequence[str]) -> None:
    if max(map(len, products), default=0) > limits.MAX_RECORD_ID_CHARACTERS:
        raise Unprojectable(
            Reason.TEXT_INVALID,
            "product_id",
            f"A product's identifier has at most {limits.MAX_RECORD_ID_CHARACTERS} characters.",
        )


def _must_be_few(*repeated: Sequence[object]) -> None:
    if max(map(len, repeated)) > limits.MAX_DOCUMENT_LINES:
        raise Unprojectable(
            Reason.TOO_MANY_LINES,
            "lines",
            f"A document has at most {limits.MAX_DOCUMENT_LINES:,} lines and as many tenders.",
        )


def _must_be_money(field: str, amount_minor: int) -> None:
    if amount_minor not in _INT64:
        raise Unprojectable(
            Reason.MONEY_TOO_LARGE, field, "Added up it is more than 64 bits can hold."
        )


def _wrong_total(total: int, owed: int) -> Unprojectable:
    if owed not in _INT64:
        return Unprojectable(
            Reason.MONEY_TOO_LARGE, "total_minor", "The lines come to more than 64 bits can hold."
        )
    return Unprojectable(
        Reason.TOTAL_WRONG, "total_minor", f"The total is {total:,} and the lines come to {owed:,}."
    )


@lru_cache(maxsize=256)
def _currency(field: str, code: str) -> str:
    if not _CURRENCY.fullmatch(code):
        raise Unprojectable(
            Reason.CURRENCY_INVALID,
            field,
            f"A currency is three capital letters, not {code!r:.40}.",
        )
    return code


def _unit_of_value(field: str, name: str) -> str:
    if not 1 <= len(name) <= limits.MAX_CURRENCY_CHARACTERS:
        raise Unprojectable(
            Reason.CURRENCY_INVALID,
            field,
            f"A currency has 1 to {limits.MAX_CURRENCY_CHARACTERS} characters.",
        )
    return name


def _day(field: str, text: str) -> str:
    try:
        if date.fromisoformat(text).isoformat() == text:
            return text
    except ValueError:
        pass
    raise Unprojectable(Reason.DAY_INVALID, field, f"{text!r:.40} is no date such as 2026-11-22.")


def _must_be_storable(message: Message) -> None:
    """Postgres' text cannot hold the character NUL; it is looked for where the bytes have one."""
    for field, value in message.ListFields():
        for one in value if isinstance(value, Sequence) and not isinstance(value, str) else [value]:
            if isinstance(one, str) and "\0" in one:
                raise Unprojectable(
                    Reason.TEXT_INVALID, field.name, "A text holds the character NUL."
                )
            if isinstance(one, Message):
                _must_be_storable(one)
