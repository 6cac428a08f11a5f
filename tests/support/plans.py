"""Plans of statements, as EXPLAIN (FORMAT JSON) tells them."""

import json
from collections.abc import Iterator
from typing import Any

from tillsync_service.foundation.db import Transaction


async def plan_of(transaction: Transaction, statement: str, *arguments: object) -> list[dict]:
    """The nodes of the statement's plan in this transaction, the topmost first."""
    row = await transaction.fetch_one(f"EXPLAIN (FORMAT JSON) {statement}", *arguments)
    return list(_nodes(json.loads(row[0])[0]["Plan"]))


def used(plan: list[dict]) -> set[str]:
    """The indexes that it uses."""
    return {node["Index Name"] for node in plan if "Index Name" in node}


def scanned(plan: list[dict]) -> set[str]:
    """The tables that it reads from end to end."""
    return {node["Relation Name"] for node in plan if node["Node Type"] == "Seq Scan"}


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)
