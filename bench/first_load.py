"""A new till's first load, beside a bare loop that copies the same rows."""

import asyncio
import json
import sqlite3
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import asyncpg

from bench import agents
from bench.catalogue import COLLECTION, KEY
from bench.rig import Target
from tillsync_service.foundation import limits
from tillsync_service.sync.scopes import TENANT

_PAGE = (
    "SELECT record_id, version, body FROM tillsync.record WHERE tenant_id = $1 AND collection = $2"
    " AND scope = $3 AND record_id > $4 AND body IS NOT NULL ORDER BY record_id LIMIT $5"
)


@dataclass(frozen=True, slots=True)
class Load:
    """`seconds`: from the start of the agent until the copy is visible."""

    seconds: float
    peak_mb: float


async def by_agent(target: Target, tenant_id: UUID, state_dir: Path) -> Load:
    """Leaves the till's files in `state_dir`."""
    await agents.enrol(target, tenant_id, state_dir)
    async with agents.child("bench.agent_child", str(state_dir)) as agent:
        began = (await agent.line())["began"]
        applied = (await agent.line())["applied"]
        return Load(applied - began, (await agent.finish())["peak_mb"])


async def bare(target: Target, tenant_id: UUID, path: Path, *, findable: bool = False) -> float:
    """Seconds until every row is in a SQLite table with the same key, one transaction a page;
    `findable`: and can be found by its barcode. In a process of its own, as the agent is."""
    words = (target.admin_url, str(tenant_id), str(path), str(int(findable)))
    return float(await agents.run(sys.executable, "-m", "bench.first_load", *words))


async def _copy(url: str, tenant_id: UUID, path: Path, *, findable: bool) -> float:
    source = await asyncpg.connect(url)
    copy = sqlite3.connect(path, isolation_level=None)
    try:
        copy.execute("PRAGMA journal_mode = WAL")
        copy.execute("PRAGMA synchronous = FULL")
        copy.execute(
            "CREATE TABLE record (record_id TEXT PRIMARY KEY, version INTEGER, body TEXT)"
            " WITHOUT ROWID"
        )
        copy.execute(
            "CREATE TABLE code (value TEXT, record_id TEXT, PRIMARY KEY (value, record_id))"
            " WITHOUT ROWID"
        )
        began = time.perf_counter()
        after = ""
        while rows := await source.fetch(
            _PAGE, tenant_id, COLLECTION, TENANT, after, limits.MAX_PAGE_RECORDS
        ):
            copy.execute("BEGIN")
            copy.executemany("INSERT INTO record VALUES (?, ?, ?)", map(tuple, rows))
            if findable:
                codes = [(json.loads(row["body"])[KEY], row["record_id"]) for row in rows]
                copy.executemany("INSERT INTO code VALUES (?, ?)", codes)
            copy.execute("COMMIT")
            after = rows[-1]["record_id"]
        return time.perf_counter() - began
    finally:
        copy.close()
        await source.close()


if __name__ == "__main__":
    url, tenant, path, findable = sys.argv[1:]
    print(asyncio.run(_copy(url, UUID(tenant), Path(path), findable=bool(int(findable)))))
