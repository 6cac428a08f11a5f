"""What goes wrong in the course of the day. Each mishap makes sure that it really happened."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from random import Random

from demo.chronicle import EVERYBODY, Chronicle
from demo.failure import DemoFailed
from demo.headoffice import HeadOffice
from demo.till import Till

VICTIMS = 4


class Mishaps:
    """When: in parts of the day, at the earliest. To whom: by the seed."""

    def __init__(
        self,
        tills: Sequence[Till],
        office: HeadOffice,
        chronicle: Chronicle,
        *,
        day_seconds: float,
        seed: int,
    ) -> None:
        self._victims = Random(seed).sample(tills, VICTIMS)  # noqa: S311 - a game of chance
        self._office = office
        self._chronicle = chronicle
        self._day_seconds = day_seconds

    async def run(self) -> None:
        """Returns when all is mended."""
        self._dawn = asyncio.get_running_loop().time()
        cut_off, killed, restarted, twice_unlucky = self._victims
        async with asyncio.TaskGroup() as day:
            link = day.create_task(self._link_cut(cut_off))
            day.create_task(self._agent_killed(killed, 0.15, 0.27))
            day.create_task(self._program_killed(restarted))
            day.create_task(self._agent_killed(twice_unlucky, 0.70, 0.78))
            day.create_task(self._office_falls(link))

    async def _link_cut(self, till: Till) -> None:
        """Its sales wait, go to head office on a stick, and are sent again by the agent."""
        await self._at(0.08)
        with self._chronicle.during(till.number, "link cut"):
            await till.cut_link()
            await self._at(0.45)
            waiting = (await asyncio.to_thread(till.look)).waiting
            if not waiting:
                raise DemoFailed(f"till {till.number} has no link, but nothing waits there")
        with self._chronicle.during(till.number, "sales carried in on a USB stick"):
            stick = await till.export()
            await self._carry_in(till, stick)
            await self._at(0.55)
            till.mend_link()
        with self._chronicle.during(till.number, "link back, the same stick again"):
            await self._carry_in_again(till, stick)

    async def _carry_in(self, till: Till, stick: Path) -> None:
        new, known = await self._office.take_in(stick)
        if not new:
            raise DemoFailed(f"till {till.number}'s stick brought nothing to head office")
        self._chronicle.count_duplicates(till.number, known)

    async def _carry_in_again(self, till: Till, stick: Path) -> None:
        new, known = await self._office.take_in(stick)
        if new or not known:
            raise DemoFailed(f"till {till.number}'s stick again: {new} new and {known} known sales")
        self._chronicle.count_duplicates(till.number, known)

    async def _agent_killed(self, till: Till, begin: float, end: float) -> None:
        await self._at(begin)
        with self._chronicle.during(till.number, "agent killed"):
            await till.kill_agent()
            await self._at(end)
            await till.start_agent()

    async def _program_killed(self, till: Till) -> None:
        await self._at(0.22)
        with self._chronicle.during(till.number, "program killed"):
            await till.kill_pos()
            await self._at(0.30)
            await till.start_selling(self._day_seconds)

    async def _office_falls(self, stick: asyncio.Task[None]) -> None:
        """Not before the stick is in: that needs PostgreSQL, and an operator would wait for it."""
        await self._at(0.34)
        with self._chronicle.during(EVERYBODY, "service killed"):
            await self._office.kill_service()
            await self._at(0.40)
        with self._chronicle.during(EVERYBODY, "service starts again"):
            await self._office.start_service()
        await stick
        await self._at(0.66)
        with self._chronicle.during(EVERYBODY, "PostgreSQL stopped"):
            await self._office.stop_postgres()
            await self._at(0.80)
        with self._chronicle.during(EVERYBODY, "PostgreSQL starts again"):
            await self._office.start_postgres()

    async def _at(self, part_of_day: float) -> None:
        now = asyncio.get_running_loop().time()
        await asyncio.sleep(max(0.0, self._dawn + part_of_day * self._day_seconds - now))
