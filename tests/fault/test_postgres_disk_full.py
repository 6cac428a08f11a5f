"""The database's disk is full, for real: a small file system, filled to the last byte."""

import asyncpg
import grpc
import pytest

from support.books import Books
from support.builders import an_event
from support.disks import fill_with_a_log, mounted_disk
from support.operators import reachable_folder
from support.polling import eventually
from support.service import Failure, ServiceProcess, names
from tillsync_service.foundation import migrations
from tillsync_service.foundation.embedded import SERVICE_USER, EmbeddedPostgres

# A cluster takes 42 MiB, and as much again where its binaries have to be copied beside it.
DISK_MEBIBYTES = 300
# More than Postgres sets aside ahead of its tables, less than what is left of a WAL segment.
MOST_BATCHES = 60


@pytest.fixture
async def postgres_on_a_small_disk():
    with (
        reachable_folder() as folder,
        mounted_disk(folder / "disk", DISK_MEBIBYTES) as disk,
    ):
        disk.chmod(0o755)
        async with EmbeddedPostgres(disk / "postgres") as postgres:
            await migrations.upgrade(postgres.admin_url)
            await migrations.grant_serving(postgres.admin_url, SERVICE_USER)
            yield postgres, disk


class Till:
    """Sells batches, and notes what head office has acknowledged."""

    def __init__(self, caller) -> None:
        self._caller = caller
        self._number = 0
        self.acknowledged: set[str] = set()
        self.failures: list[Failure] = []

    async def sells(self) -> bool:
        """Offers the next batch; a batch that is refused is the next one again."""
        batch = [an_event(f"s{self._number + n}", receipt="r" * 2000) for n in range(50)]
        try:
            verdicts = await self._caller.offer(*batch)
        except grpc.aio.AioRpcError as error:
            self.failures.append(Failure.of(error))
            return False
        assert {*names(verdicts)} == {"ACCEPTED"}
        self._number += len(batch)
        self.acknowledged |= {event.key for event in batch}
        return True


async def with_a_fresh_wal_segment(connection: asyncpg.Connection) -> None:
    """What is written next needs room in the tables, and none for the log of what is written."""
    await connection.execute("CHECKPOINT")
    await connection.execute("SELECT pg_switch_wal()")
    await connection.execute("CHECKPOINT")


async def test_a_full_disk_is_unavailable_loses_nothing_and_heals(
    postgres_on_a_small_disk, tmp_path
):
    """Somebody's log fills the database's disk. Tills hear that they shall come again, as often as
    they ask; what was acknowledged stays; and when the operator has made room the next batch is
    stored, without a restart of anything."""
    postgres, disk = postgres_on_a_small_disk
    connection = await asyncpg.connect(postgres.admin_url)
    device = await Books(connection).enrol()
    async with (
        ServiceProcess(postgres.service_url, tmp_path) as service,
        service.caller(device) as caller,
    ):
        till = Till(caller)
        assert await till.sells()
        await with_a_fresh_wal_segment(connection)
        log = fill_with_a_log(disk, chunk_bytes=4096)
        for _ in range(MOST_BATCHES):
            if not await till.sells():
                break
        for _ in range(5):
            assert not await till.sells()

        log.unlink()
        await eventually(till.sells, within_seconds=30)

    assert len(till.failures) >= 6
    for failure in till.failures:
        assert (failure.code, failure.reason) == (
            grpc.StatusCode.UNAVAILABLE,
            "DATABASE_UNAVAILABLE",
        )
        assert failure.pushback_ms == "1000"
    history = await Books(connection).keys(device.tenant_id)
    assert len(history) == len({*history})
    assert till.acknowledged == {*history}
    await connection.close()
