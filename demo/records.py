"""What becomes of records in the course of the day: the catalogue reaches every till, a price
changes while they sell, tills edit offline and collide, and two sales that head office lost come
home."""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from demo.books import Books
from demo.catalogue import write_catalogue
from demo.chronicle import EVERYBODY, Chronicle
from demo.failure import DemoFailed
from demo.headoffice import HeadOffice
from demo.operator import Operator
from demo.till import Till

LOST_SALES = 2
_POLICIES = {
    "price": "server-wins",
    "product": "server-wins",
    "stock": "server-wins",
    "customer": "arrival-wins",
}
_PATIENCE_SECONDS = 60.0
_GLANCE_SECONDS = 0.05
_AT_ONCE = 4


@dataclass(slots=True)
class Outcome:
    """What was seen. `price_seconds`: from the operator's command to each till's disk, the fastest
    first."""

    products: int = 0
    price_seconds: list[float] = field(default_factory=list)
    missing_found: int = 0
    missing_healed: int = 0
    conflicts_audited: int = 0
    replicas_equal: int = 0


class Records:
    """One chain's records, in the order of the methods."""

    def __init__(
        self,
        office: HeadOffice,
        operator: Operator,
        tenant_id: str,
        *,
        tills: Sequence[Till],
        books: Books,
        chronicle: Chronicle,
    ) -> None:
        self._office = office
        self._operator = operator
        self._tenant_id = tenant_id
        self._tills = tills
        self._books = books
        self._chronicle = chronicle
        self.outcome = Outcome()

    async def publish(self, folder: Path) -> None:
        """An operator defines the collections and imports a file into each."""
        files, products = await asyncio.to_thread(write_catalogue, folder)
        self.outcome.products = len(products)
        self._article = products[0]
        for name, file in files.items():
            more = ("--lookup-key", "barcode") if name == "product" else ()
            await self._command("collections", "define", name, "--policy", _POLICIES[name], *more)
            await self._command("records", "import", str(file), "--collection", name)

    async def change_a_price(self, folder: Path) -> None:
        """While tills sell: from the command to the disk of the last till that has a link."""
        await self._on_all(lambda till: till.record("price", self._article) is not None)
        article = self._article
        file = folder / "price-change.jsonl"
        file.write_text(json.dumps({"id": article, "minor": 77}) + "\n")
        loop = asyncio.get_running_loop()
        with self._chronicle.during(EVERYBODY, "a price changes at head office"):
            await self._import_again(file, "price")
            began = loop.time()

            async def seconds(till: Till) -> float:
                await _until(lambda: '"minor":77' in (till.record("price", article) or ""))
                return loop.time() - began

            self.outcome.price_seconds = sorted(await asyncio.gather(*map(seconds, self._tills)))

    async def edit_offline(self) -> None:
        """Two tills without a link move stock, and change the same customer."""
        first, second = self._tills[:2]
        article = self._article
        for till in (first, second):
            await till.cut_link()
        with self._chronicle.during(first.number, "stock moved and a customer changed offline"):
            await first.edit("add", "stock", article, '{"on_hand": -3}')
            await first.edit("patch", "customer", "c-1", '{"phone": "1"}')
        with self._chronicle.during(second.number, "the same customer changed offline"):
            await second.edit("patch", "customer", "c-1", '{"phone": "2"}')
        for till in (first, second):
            till.mend_link()
        await self._on_all(
            lambda till: (
                '"on_hand":97' in (till.record("stock", article) or "")
                and '"phone"' in (till.record("customer", "c-1") or "")
            )
        )
        self.outcome.conflicts_audited = await self._books.conflicts()

    async def lose_and_find(self) -> None:
        """Two sales vanish at head office; it is seen whose they are, they come home, and every
        till closes the day."""
        victim = self._tills[-1]
        await self._all("reconcile")
        day = await self._books.lose(victim.device_id, LOST_SALES)
        with self._chronicle.during(
            victim.number, f"{LOST_SALES} of its sales lost at head office"
        ):
            self.outcome.missing_found = await asyncio.to_thread(
                self._operator.missing, self._tenant_id
            )
            await victim.agent_command("reconcile")
            left = await asyncio.to_thread(self._operator.missing, self._tenant_id)
            self.outcome.missing_healed = self.outcome.missing_found - left
        with self._chronicle.during(EVERYBODY, f"{day} closed"):
            await self._all("close-day", day)

    async def compare(self) -> None:
        """Every till's copy against PostgreSQL, record for record, now that nothing changes."""
        held = await self._books.records()
        for till in self._tills:
            wanted = held[""] | held.get(till.store_id, {})
            await _until(partial(_is_copy, till, wanted))
            self.outcome.replicas_equal += 1

    async def _on_all(self, is_so: Callable[[Till], bool]) -> None:
        for till in self._tills:
            await _until(partial(is_so, till))

    async def _all(self, *command: str) -> None:
        turn = asyncio.Semaphore(_AT_ONCE)

        async def one(till: Till) -> None:
            async with turn:
                await till.agent_command(*command)

        await asyncio.gather(*map(one, self._tills))

    async def _import_again(self, file: Path, collection: str) -> None:
        """As an operator does whose service was just restarted: the same again."""
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while True:
                with suppress(DemoFailed):
                    await self._command("records", "import", str(file), "--collection", collection)
                    return
                await asyncio.sleep(1)

    async def _command(self, *arguments: str) -> str:
        return await self._office.operate(*arguments, "--tenant", self._tenant_id)


def _is_copy(till: Till, wanted: Mapping[tuple[str, str], str]) -> bool:
    return till.copy() == wanted


async def _until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(_PATIENCE_SECONDS):
        while not await asyncio.to_thread(is_so):  # noqa: ASYNC110 - in other processes
            await asyncio.sleep(_GLANCE_SECONDS)


def must_be_right(outcome: Outcome, tills: int) -> list[str]:
    """What is wrong, in sentences."""
    return [
        fault
        for fault, is_so in (
            (
                f"{tills - outcome.replicas_equal} tills' copies are not what PostgreSQL holds",
                outcome.replicas_equal != tills,
            ),
            (
                f"{outcome.missing_found} missing sales were found, {LOST_SALES} were lost",
                outcome.missing_found != LOST_SALES,
            ),
            (
                f"{outcome.missing_healed} missing sales came home of {LOST_SALES}",
                outcome.missing_healed != LOST_SALES,
            ),
            (
                f"{outcome.conflicts_audited} conflicts were kept, 1 had happened",
                outcome.conflicts_audited != 1,
            ),
        )
        if is_so
    ]
