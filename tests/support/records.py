"""Records, read past the service with the migrator's rights, and what they must come to."""

import hashlib
from collections.abc import Mapping
from uuid import UUID

import asyncpg


def digest_of(records: Mapping[str, str]) -> bytes:
    """The digest of records, bodies by id, as the contract states it."""
    hashes = (
        int.from_bytes(hashlib.sha256(f"{one}\0{body}".encode()).digest()[:16], "big")
        for one, body in records.items()
    )
    return (sum(hashes) % 2**128).to_bytes(16, "big")


async def head_of(migrator: asyncpg.Connection, tenant_id: str) -> int:
    """The last version."""
    return await migrator.fetchval(
        "SELECT position FROM tillsync.tenant_head WHERE tenant_id = $1 AND stream = 'record'",
        UUID(tenant_id),
    )


async def versions_of(migrator: asyncpg.Connection, tenant_id: str) -> list[int]:
    rows = await migrator.fetch(
        "SELECT version FROM tillsync.record WHERE tenant_id = $1 ORDER BY version",
        UUID(tenant_id),
    )
    return [row["version"] for row in rows]


async def parts_of(
    migrator: asyncpg.Connection, tenant_id: str
) -> dict[tuple[str, str], tuple[int, bytes]]:
    """(collection, store id) to (live records, digest), counted anew from the records."""
    rows = await migrator.fetch(
        "SELECT * FROM tillsync.record WHERE tenant_id = $1 AND body IS NOT NULL", UUID(tenant_id)
    )
    parts: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        store_id = str(row["scope"]) if row["scope"].int else ""
        parts.setdefault((row["collection"], store_id), {})[row["record_id"]] = row["body"]
    return {part: (len(records), digest_of(records)) for part, records in parts.items()}
