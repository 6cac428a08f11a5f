"""The demo's sales, made from simulated baskets. Skipped where the data is not installed."""

from datetime import UTC, datetime

import pytest

pytest.importorskip("duckdb", reason="make .venv/demo-data installs it")

from demo.baskets import Basket, Line, amounts_of, read_baskets, sale_of


def a_basket(*lines: Line) -> Basket:
    return Basket("367", "1", "900", datetime(2017, 1, 1, tzinfo=UTC), lines)


def test_the_same_baskets_come_in_the_same_order():
    """A demo can be repeated: the same question gives the same baskets, by time, from no more
    stores than asked for."""
    baskets = list(read_baskets(stores=3, baskets=200))

    assert len(baskets) == 200
    assert len({basket.basket_id for basket in baskets}) == 200
    assert len({basket.store_id for basket in baskets}) == 3
    assert [basket.sold_at for basket in baskets] == sorted(basket.sold_at for basket in baskets)
    assert baskets == list(read_baskets(stores=3, baskets=200))


def test_every_cent_of_a_basket_is_in_its_sale():
    """The books balance: in every sale the lines, the tenders and the amounts say the same total,
    and each line is its gross price less its discounts."""
    for basket in read_baskets(stores=3, baskets=200):
        sale = sale_of(basket)

        assert sale.total_minor == sum(line.total_minor for line in sale.lines)
        assert sale.total_minor == sum(tender.amount_minor for tender in sale.tenders)
        assert amounts_of(sale) == {"USD": sale.total_minor}


def test_discounts_are_taken_off_the_shelf_price():
    """A receipt shows what was saved: the unit price is the one before the discounts."""
    line = Line("x", 2, 250, loyalty_discount_minor=40, coupon_match_minor=10, coupon_minor=0)

    printed = sale_of(a_basket(line)).lines[0]

    assert printed.unit_price_minor == 150
    assert [(d.reason, d.amount_minor) for d in printed.discounts] == [
        ("loyalty", 40),
        ("coupon_match", 10),
    ]
    assert printed.total_minor == 250


def test_a_coupon_never_pays_out():
    """The drawer is right: a coupon worth more than the basket pays for it and gives no change."""
    line = Line("x", 1, 100, loyalty_discount_minor=0, coupon_match_minor=0, coupon_minor=150)

    tenders = sale_of(a_basket(line)).tenders

    assert [(tender.kind, tender.amount_minor) for tender in tenders] == [("voucher", 100)]
