"""A day of a small chain, from the empty folder to the verdict."""

import asyncio
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from demo.baskets import Basket, amounts_of, read_baskets, sale_of
from demo.books import Books
from demo.chronicle import Chronicle
from demo.failure import DemoFailed
from demo.headoffice import HeadOffice
from demo.mishaps import Mishaps
from demo.operator import Operator
from demo.processes import Processes
from demo.records import Records
from demo.till import Look, Till
from demo.verdict import Verdict, reckon
from demo.view import View
from tillsync.v1.event_pb2 import Amount, Event

GLANCE_SECONDS = 0.5
ENROLLING_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Size:
    """How much of a day; see the options."""

    sales: int
    stores: int
    tills_per_store: int
    day_seconds: float
    seed: int


class Day:
    """Use `run()` once."""

    def __init__(self, size: Size, folder: Path, view: View, chronicle: Chronicle) -> None:
        self._size = size
        self._folder = folder
        self._view = view
        self._chronicle = chronicle
        self._tills: list[Till] = []
        self._books = Books()

    async def run(self) -> Verdict:
        """Raises DemoFailed when something did not happen as it should."""
        async with AsyncExitStack() as resources:
            logs = self._folder / "logs"
            logs.mkdir()
            self._processes = await resources.enter_async_context(Processes(logs))
            self._office = HeadOffice(self._processes, self._folder)
            resources.push_async_callback(self._abandon)
            async with asyncio.TaskGroup() as tasks:
                watch = tasks.create_task(self._watch())
                verdict = await self._story(resources)
                watch.cancel()
            return verdict

    async def _story(self, resources: AsyncExitStack) -> Verdict:
        self._chronicle.phase = "PostgreSQL and the service start"
        baskets, _ = await asyncio.gather(self._read_baskets(), self._office.open())
        await self._open_tills(baskets, resources)

        self._chronicle.phase = "head office imports its catalogue"
        await self._records.publish(self._folder)
        mishaps = Mishaps(
            self._tills,
            self._office,
            self._chronicle,
            day_seconds=self._size.day_seconds,
            seed=self._size.seed,
        )
        self._chronicle.phase = "the tills' programs start"
        await _all(till.start_selling(self._size.day_seconds) for till in self._tills)
        while not all(look.recorded for look in await self._looks()):  # noqa: ASYNC110 - see below
            await asyncio.sleep(GLANCE_SECONDS)
        self._chronicle.phase = "selling"
        await _all([mishaps.run(), self._records.change_a_price(self._folder)])
        await _all(till.sold_all() for till in self._tills)

        self._chronicle.phase = "closed; the last sales are sent"
        while any(look.waiting for look in await self._looks()):  # noqa: ASYNC110 - in other processes
            await asyncio.sleep(GLANCE_SECONDS)
        self._chronicle.phase = "two tills edit records without a link"
        await self._records.edit_offline()
        self._chronicle.phase = "is anything missing?"
        await self._records.lose_and_find()
        self._chronicle.phase = "the copies are compared"
        await self._records.compare()
        return await self._reckoning()

    async def _read_baskets(self) -> list[Basket]:
        size = self._size
        asked = {"stores": size.stores, "baskets": size.sales}
        baskets = await asyncio.to_thread(lambda: list(read_baskets(**asked)))
        if len(baskets) < size.sales:
            raise DemoFailed(f"these {size.stores} stores sold only {len(baskets):,} baskets")
        return baskets

    async def _open_tills(self, baskets: Sequence[Basket], resources: AsyncExitStack) -> None:
        by_store: dict[str, list[Event]] = {}
        for basket in baskets:
            by_store.setdefault(basket.store_id, []).append(_event(basket))
        self._chronicle.phase = "an operator opens stores, tills enrol"
        operator = Operator(self._office.address, self._office.operator_token)
        chain = await asyncio.to_thread(
            operator.open_chain, list(by_store), self._size.tills_per_store
        )
        self._books.open(self._office.access.admin_url, chain.tenant_id)
        self._records = Records(
            self._office,
            operator,
            chain.tenant_id,
            tills=self._tills,
            books=self._books,
            chronicle=self._chronicle,
        )
        tills = [
            (store, sales, number, code)
            for store, sales in by_store.items()
            for number, code in enumerate(chain.codes[store])
        ]
        gate = asyncio.Semaphore(ENROLLING_AT_ONCE)
        installs = []
        for count, (store, sales, number, code) in enumerate(tills, start=1):
            own = list(islice(sales, number, None, self._size.tills_per_store))
            folder = self._folder / f"till-{count}"
            till = Till(count, store, own, folder, self._processes)
            installs.append(_install(till, self._office.port, code, resources, gate))
            self._tills.append(till)
        await _all(installs)

    async def _watch(self) -> None:
        """Shows every moment, and ends the demo when a process ends that should not."""
        while True:
            self._office.check()
            for till in self._tills:
                till.check()
            self._view.show(self._tills, await self._looks(), await self._stored())
            await asyncio.sleep(GLANCE_SECONDS)

    async def _looks(self) -> list[Look]:
        tills = list(self._tills)
        return await asyncio.to_thread(lambda: [till.look() for till in tills])

    async def _stored(self) -> Mapping[str, int]:
        return await self._books.counts()

    async def _reckoning(self) -> Verdict:
        self._chronicle.phase = "the books are compared"
        await _all(till.stop_agent() for till in self._tills)
        verdict = reckon(
            self._tills,
            await self._looks(),
            stored=await self._books.events(),
            totals=await self._books.totals(),
            chronicle=self._chronicle,
            records=self._records.outcome,
            seconds=self._view.seconds,
        )
        await self._close_books()
        await self._office.close()
        return verdict

    async def _abandon(self) -> None:
        """After a failure: what is not closed yet."""
        await self._close_books()
        with suppress(DemoFailed):
            await self._office.close()

    async def _close_books(self) -> None:
        await self._books.close()


async def _install(
    till: Till, port: int, code: str, resources: AsyncExitStack, gate: asyncio.Semaphore
) -> None:
    async with gate:
        await till.install(port, code, resources)


async def _all(steps: Iterable[Coroutine[Any, Any, None]]) -> None:
    async with asyncio.TaskGroup() as tasks:
        for step in steps:
            tasks.create_task(step)


def _event(basket: Basket) -> Event:
    sale = sale_of(basket)
    event = Event(
        key=f"receipt-{sale.receipt_number}",
        business_day=basket.sold_at.date().isoformat(),
        amounts=[Amount(currency=c, minor_units=minor) for c, minor in amounts_of(sale).items()],
    )
    event.body.Pack(sale)
    return event
