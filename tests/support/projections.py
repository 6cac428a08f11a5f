"""Documents as tills record them, a plain model of what they come to, and the tables to compare."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from uuid import UUID

import asyncpg
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message

from support.builders import an_event, examined
from tillsync.v1 import retail_pb2 as pb
from tillsync.v1.event_pb2 import Amount, Event
from tillsync_service.foundation.db import Database
from tillsync_service.foundation.identity import Device
from tillsync_service.ingest.store import IngestStore
from tillsync_service.projections.halving import Stride
from tillsync_service.projections.store import ProjectionStore
from tillsync_service.projections.worker import Worker

PAGE = 7  # small, so that few events are several pages


def a_line(product: str = "4711", pieces: int = 1, total: int = 100, scale: int = 0) -> pb.SaleLine:
    return pb.SaleLine(
        product_id=product,
        quantity=pb.Decimal(unscaled=pieces, scale=scale),
        unit_price_minor=100,
        total_minor=total,
    )


def a_sale(*lines: pb.SaleLine, currency: str = "EUR", **fields) -> pb.Sale:
    lines = lines or (a_line(),)
    total = sum(line.total_minor for line in lines)
    fields = {
        "total_minor": total,
        "tenders": [pb.Tender(kind="cash", amount_minor=total)],
        "receipt_number": "r",
        **fields,
    }
    return pb.Sale(lines=lines, currency=currency, **fields)


def a_return(*lines: pb.SaleLine, currency: str = "EUR", **fields) -> pb.Return:
    lines = lines or (a_line(),)
    total = -sum(line.total_minor for line in lines)
    return pb.Return(lines=lines, currency=currency, **{"total_minor": total, **fields})


def a_void(key: str) -> pb.Void:
    return pb.Void(voided_key=key)


def cash(amount: int, currency: str = "EUR") -> pb.CashMovement:
    return pb.CashMovement(kind="pickup", amount=Amount(currency=currency, minor_units=amount))


def stock(product: str, pieces: int, scale: int = 0) -> pb.StockMovement:
    change = pb.Decimal(unscaled=pieces, scale=scale)
    return pb.StockMovement(product_id=product, quantity_change=change, kind="delivery")


def day_close(day: str = "", **counted: int) -> pb.DayClose:
    amounts = [Amount(currency=name, minor_units=minor) for name, minor in counted.items()]
    return pb.DayClose(business_day=day, counted_cash=amounts)


def recording(key: str, document: Message | Any, **fields) -> Event:
    """An event with the document as its body. An Any is the body itself."""
    body = document
    if not isinstance(document, Any):
        body = Any()
        body.Pack(document)
    return an_event(key, body=body, **fields)


def unreadable(kind: str = "Sale") -> Any:
    return Any(type_url=f"type.googleapis.com/tillsync.v1.{kind}", value=b"\xff\xff")


def unknown() -> Any:
    return Any(type_url="example.com/shop.LoyaltyCard", value=b"\x00\x01")


async def ingest(database: Database, device: Device, *events: Event) -> list[int]:
    """The positions that the events got."""
    batch = examined(device, *events)
    (receipt,) = await IngestStore(database).commit(device.tenant_id, [batch])
    return receipt.verdicts.positions


async def projected(database: Database, tenant_id: UUID, most: int = PAGE) -> None:
    """Until the tenant is level and no rebuild is under way, as a worker goes about it."""
    store, stride = ProjectionStore(database), Stride(most)
    while True:
        turn = await stride.step(lambda *how: store.advance(tenant_id, *how))
        rebuilt = await stride.step(lambda *how: store.rebuild(tenant_id, *how))
        if not turn.lag and not rebuilt.rebuilding:
            return


def a_worker(database: Database, workers: int = 2, **named) -> Worker:
    return Worker(ProjectionStore(database), workers, **named)


@dataclass
class Document:
    """What the model knows of one."""

    store_id: UUID
    day: str
    currency: str = ""
    sold: int | None = None
    returned: int | None = None
    cash: int | None = None
    counted: dict[str, int] = field(default_factory=dict)
    stock: dict[str, Decimal] = field(default_factory=dict)
    voided_by: int | None = None


def quantities(lines: list[pb.SaleLine], sign: int) -> dict[str, Decimal]:
    sums: dict[str, Decimal] = defaultdict(Decimal)
    for line in lines:
        if line.product_id:
            sums[line.product_id] += sign * decimal_of(line.quantity)
    return sums


def decimal_of(number: pb.Decimal) -> Decimal:
    return Decimal(number.unscaled).scaleb(-number.scale)


@dataclass
class Model:
    """The tables of one tenant, kept by hand and event by event."""

    documents: dict[int, Document] = field(default_factory=dict)
    positions: dict[str, int] = field(default_factory=dict)
    dead: dict[int, str] = field(default_factory=dict)
    attempts: Counter = field(default_factory=Counter)
    discarded: set[int] = field(default_factory=set)
    voids: dict[int, str] = field(default_factory=dict)

    def take(self, position: int, event: Event, device: Device) -> None:
        """The event arrives at this position, and is projected after all those before it."""
        self.positions[event.key] = position
        name = event.body.type_url.rpartition("/")[2]
        kinds = {f"tillsync.v1.{kind.__name__}": kind for kind in _KINDS}
        if name not in kinds:
            return
        try:
            document = kinds[name].FromString(event.body.value)
        except Exception:  # noqa: BLE001 - whatever it is, it cannot be read
            self._die(position, "BODY_UNREADABLE")
            return
        reason = _KINDS[type(document)](self, position, event, device, document)
        if reason:
            self._die(position, reason)

    def replay(self, position: int) -> bool:
        """Whether the dead letter is projected now; only voids can be."""
        if self.dead.get(position) in ("VOID_UNKNOWN", "VOID_REPEATED"):
            reason = self._void(position, self.voids[position], anywhere=True)
            if not reason:
                del self.dead[position], self.attempts[position]
                return True
            self.dead[position] = reason
        self.attempts[position] += 1
        return False

    def rebuild(self, until: int, after: int = 0) -> None:
        """What waits is tried once more, as if it came now: a void only finds what came before."""
        for position, reason in self.dead.items():
            if not after < position <= until or position in self.discarded:
                continue
            self.attempts[position] += 1
            if reason == "VOID_REPEATED" and self.positions[self.voids[position]] > position:
                self.dead[position] = "VOID_UNKNOWN"

    def _die(self, position: int, reason: str) -> None:
        self.dead[position] = reason
        self.attempts[position] = 1

    def _void(self, position: int, key: str, *, anywhere: bool) -> str:
        self.voids[position] = key
        target = self.positions.get(key)
        if target not in self.documents or (target > position and not anywhere):
            return "VOID_UNKNOWN"
        if self.documents[target].voided_by is not None:
            return "VOID_REPEATED"
        self.documents[target].voided_by = position
        return ""

    def _take_sale(self, position, event, device, sale) -> str:
        if len(sale.currency) != 3:
            return "CURRENCY_INVALID"
        if sum(line.total_minor for line in sale.lines) != sale.total_minor:
            return "TOTAL_WRONG"
        self.documents[position] = Document(
            device.store_id,
            event.business_day,
            sale.currency,
            sold=sale.total_minor,
            stock=quantities(sale.lines, -1),
        )
        return ""

    def _take_return(self, position, event, device, back) -> str:
        self.documents[position] = Document(
            device.store_id,
            event.business_day,
            back.currency,
            returned=back.total_minor,
            stock=quantities(back.lines, 1),
        )
        return ""

    def _take_void(self, position, event, device, void) -> str:
        return self._void(position, void.voided_key, anywhere=False)

    def _take_cash(self, position, event, device, movement) -> str:
        self.documents[position] = Document(
            device.store_id,
            event.business_day,
            movement.amount.currency,
            cash=movement.amount.minor_units,
        )
        return ""

    def _take_stock(self, position, event, device, movement) -> str:
        change = {movement.product_id: decimal_of(movement.quantity_change)}
        self.documents[position] = Document(device.store_id, event.business_day, stock=change)
        return ""

    def _take_close(self, position, event, device, close) -> str:
        counted = {amount.currency: amount.minor_units for amount in close.counted_cash}
        day = close.business_day or event.business_day
        self.documents[position] = Document(device.store_id, day, counted=counted)
        return ""

    def stock(self) -> dict[tuple[UUID, str], Decimal]:
        sums: dict[tuple[UUID, str], Decimal] = defaultdict(Decimal)
        for document in self.documents.values():
            if document.voided_by is None:
                for product, change in document.stock.items():
                    sums[document.store_id, product] += change
        return {key: change for key, change in sums.items() if change}

    def days(self) -> dict[tuple[UUID, str, str], tuple[int, ...]]:
        """Sales, their money, returns, their money, voids, cash and counted cash."""
        sums: dict[tuple[UUID, str, str], list[int]] = defaultdict(lambda: [0] * 7)
        for document in self.documents.values():
            for currency in document.counted or [document.currency]:
                if not currency:
                    continue
                total = sums[document.store_id, document.day, currency]
                if document.voided_by is not None:
                    total[4] += 1
                    continue
                if document.sold is not None:
                    total[0] += 1
                    total[1] += document.sold
                if document.returned is not None:
                    total[2] += 1
                    total[3] += document.returned
                total[5] += document.cash or 0
                total[6] += document.counted.get(currency, 0)
        return {key: tuple(total) for key, total in sums.items() if any(total)}


_KINDS = {
    pb.Sale: Model._take_sale,
    pb.Return: Model._take_return,
    pb.Void: Model._take_void,
    pb.CashMovement: Model._take_cash,
    pb.StockMovement: Model._take_stock,
    pb.DayClose: Model._take_close,
}


class Tables:
    """The projected tables of one tenant, read past the service."""

    def __init__(self, connection: asyncpg.Connection, tenant_id: UUID) -> None:
        self.connection = connection
        self.tenant_id = tenant_id

    async def rows(self, table: str) -> list[asyncpg.Record]:
        return await self.connection.fetch(
            f"SELECT * FROM tillsync.{table} t WHERE tenant_id = $1 ORDER BY t", self.tenant_id
        )

    async def everything(self) -> dict[str, list[str]]:
        """Every row of every table of documents and sums; rows that come to nothing left out."""
        tables = ("sale", "sale_line", "tender", "movement")
        found = {table: list(map(str, await self.rows(table))) for table in tables}
        return found | {"stock": await self.stock(), "days": await self.days()}

    async def projection(self) -> asyncpg.Record:
        (row,) = await self.rows("projection")
        return row

    async def stock(self) -> dict[tuple[UUID, str], Decimal]:
        return {
            (row["store_id"], row["product_id"]): row["quantity"]
            for row in await self.rows("stock_level")
            if row["quantity"]
        }

    async def days(self) -> dict[tuple[UUID, str, str], tuple[int, ...]]:
        days = {}
        for row in await self.rows("day_total"):
            day = row["business_day"]
            name = day.isoformat() if isinstance(day, date) else str(day)
            total = tuple(map(int, list(row.values())[4:]))
            if any(total):
                days[row["store_id"], name, row["currency"]] = total
        return days

    async def voided(self) -> dict[int, int]:
        rows = [*await self.rows("sale"), *await self.rows("movement")]
        return {r["position"]: r["voided_by"] for r in rows if r["voided_by"] is not None}

    async def dead(self) -> dict[int, tuple[str, int, str]]:
        """Reason, attempts and state by position."""
        return {
            row["position"]: (row["reason"], row["attempts"], row["state"])
            for row in await self.rows("dead_letter")
        }

    async def must_be(self, model: Model) -> None:
        """They say what the model says."""
        assert await self.stock() == model.stock()
        assert await self.days() == model.days()
        assert await self.voided() == {
            position: document.voided_by
            for position, document in model.documents.items()
            if document.voided_by is not None
        }
        assert await self.dead() == {
            position: (
                reason,
                model.attempts[position],
                "discarded" if position in model.discarded else "waiting",
            )
            for position, reason in model.dead.items()
        }

    async def must_add_up(self) -> None:
        """The sums are those of the rows, asked of Postgres in plain words."""
        for name, statement in _DIFFERENCES.items():
            assert await self.connection.fetch(statement, self.tenant_id) == [], name


_DIFFERENCES = {
    "stock": """
        WITH expected AS (
            SELECT store_id, product_id, sum(change) AS quantity FROM (
                SELECT s.store_id, l.product_id, -l.quantity AS change
                FROM tillsync.sale s JOIN tillsync.sale_line l USING (tenant_id, position)
                WHERE tenant_id = $1 AND voided_by IS NULL AND l.product_id <> ''
                UNION ALL
                SELECT store_id, product_id, quantity FROM tillsync.movement
                WHERE tenant_id = $1 AND voided_by IS NULL AND kind = 'stock'
            ) AS changes GROUP BY store_id, product_id
        )
        SELECT * FROM expected
        FULL JOIN (SELECT * FROM tillsync.stock_level WHERE tenant_id = $1) AS held
        USING (store_id, product_id)
        WHERE COALESCE(expected.quantity, 0) <> COALESCE(held.quantity, 0)
    """,
    "days": """
        WITH expected AS (
            SELECT store_id, business_day, currency,
                count(*) FILTER (WHERE kind = 'sale') AS sale_count,
                COALESCE(sum(total_minor) FILTER (WHERE kind = 'sale'), 0) AS sale_minor,
                COALESCE(sum(total_minor) FILTER (WHERE kind = 'return'), 0) AS return_minor
            FROM tillsync.sale WHERE tenant_id = $1 AND voided_by IS NULL
            GROUP BY store_id, business_day, currency
        )
        SELECT * FROM expected
        FULL JOIN (SELECT * FROM tillsync.day_total WHERE tenant_id = $1) AS held
        USING (store_id, business_day, currency)
        WHERE (COALESCE(expected.sale_count, 0), COALESCE(expected.sale_minor, 0),
            COALESCE(expected.return_minor, 0))
            <> (COALESCE(held.sale_count, 0), COALESCE(held.sale_minor, 0),
            COALESCE(held.return_minor, 0))
    """,
    "lines without a sale": """
        SELECT FROM tillsync.sale_line l WHERE tenant_id = $1 AND NOT EXISTS (
            SELECT FROM tillsync.sale s WHERE s.tenant_id = $1 AND s.position = l.position
        )
    """,
    "tenders without a sale": """
        SELECT FROM tillsync.tender t WHERE tenant_id = $1 AND NOT EXISTS (
            SELECT FROM tillsync.sale s WHERE s.tenant_id = $1 AND s.position = t.position
        )
    """,
}
