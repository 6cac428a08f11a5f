"""Memory that is shared out: enough for everybody in turn, too much for nobody."""

import asyncio

import pytest

from tillsync_service.foundation.budget import Budget, Share
from tillsync_service.foundation.errors import Overloaded
from tillsync_service.foundation.house import Guest


def asked(budget: Budget, payer: str, size: int, **more: int) -> asyncio.Task[Share]:
    return asyncio.create_task(budget.take(payer, size, **more))


async def settled() -> None:
    """Everything that can go on has gone on."""
    for _ in range(5):
        await asyncio.sleep(0)


async def who_is_in(*tasks: asyncio.Task[Share]) -> list[bool]:
    await settled()
    return [task.done() for task in tasks]


async def test_a_busy_retailer_waits_for_itself_and_for_nobody_else():
    """One retailer's thousand tills fill its share: its next one waits, another retailer's does
    not, and as soon as a call ends the waiting one goes on."""
    budget = Budget(total=100, each=30)
    first = await budget.take("busy", 20)

    waiting, other = asked(budget, "busy", 20), asked(budget, "other", 20)
    assert await who_is_in(waiting, other) == [False, True]
    first.give_back()

    assert await who_is_in(waiting) == [True]


async def test_a_retailer_at_its_share_delays_nobody_where_little_is_left():
    """One retailer's tills fill its share and wait for themselves: while the rest is nearly taken
    too, another retailer's small sale still goes past them, and nobody is sent away for them."""
    budget = Budget(total=100, each=60)
    await budget.take("busy", 60)
    await budget.take("other", 30)
    waiting = asked(budget, "busy", 20)
    await settled()

    small = asked(budget, "small", 5)

    assert await who_is_in(waiting, small) == [False, True]
    assert budget.is_wanted_from("busy", 0)
    assert not budget.is_wanted_from("other", 0)


async def test_what_a_small_sale_does_not_need_is_free_at_once():
    """A call of a small sale is reckoned as the largest until it is here: from then on the room is
    the others'."""
    budget = Budget(total=100, each=40)
    share = await budget.take("a", 40)
    waiting = asked(budget, "a", 39)
    assert await who_is_in(waiting) == [False]

    share.shrink(1)

    assert await who_is_in(waiting) == [True]


async def test_retailers_take_turns():
    """A retailer with a long line delays another by one call, and not by its line."""
    budget = Budget(total=10, each=10)
    holder = await budget.take("x", 10)
    line = [asked(budget, "long line", 5) for _ in range(6)]
    await settled()
    single = asked(budget, "single", 5)
    await settled()

    holder.give_back()

    assert await who_is_in(single, *line) == [True, True, *[False] * 5]


async def test_a_large_call_is_not_overtaken_for_ever():
    """While small calls come without end, the large one whose turn it is gets the room that they
    give back."""
    budget = Budget(total=10, each=10)
    small = await budget.take("small", 5)
    large = asked(budget, "large", 10)
    await settled()
    late = asked(budget, "small", 1)

    assert await who_is_in(large, late) == [False, False]
    small.give_back()

    assert await who_is_in(large, late) == [True, False]


@pytest.mark.parametrize("moment", ["earlier", "just before", "just after"])
async def test_a_till_that_hangs_up_while_it_waits_leaves_its_place(moment):
    """A shop loses its line while its call waits: the room goes to the next one, also where the
    call was to be let in at that very moment."""
    budget = Budget(total=10, each=10)
    holder = await budget.take("a", 10)
    gone, behind = asked(budget, "a", 10), asked(budget, "b", 10)
    await settled()

    if moment == "just after":
        holder.give_back()
    gone.cancel()
    if moment == "earlier":
        await settled()
    if moment != "just after":
        holder.give_back()

    assert await who_is_in(behind) == [True]
    assert gone.cancelled()
    behind.result().give_back()
    assert (await budget.take("c", 10)).size == 10


async def test_who_comes_when_too_many_wait_is_told_to_come_later():
    """A line without an end helps nobody: tills beyond it hear that they shall come again."""
    budget = Budget(total=10, each=10, max_waiting=2, max_waiting_bytes=50)
    holder = await budget.take("a", 10)
    line = [asked(budget, "a", 1, in_memory=30)]
    await settled()

    with pytest.raises(Overloaded):
        await budget.take("b", 1, in_memory=30)
    line.append(asked(budget, "b", 1))
    await settled()
    with pytest.raises(Overloaded):
        await budget.take("c", 1)
    holder.give_back()

    assert await who_is_in(*line) == [True, True]
    assert (await budget.take("c", 8)).size == 8


async def test_nothing_is_remembered_of_who_left():
    """A service that has seen a million retailers keeps an account for those who are inside."""
    budget = Budget(total=10, each=10)
    for payer in range(100):
        (await budget.take(payer, 10)).give_back()

    assert not budget._payers
    assert not budget._turns


async def test_who_is_gone_cannot_hold_anything_any_more():
    """A till hangs up at the very moment when room is made for its next batch: the room is the
    others' at once, and not lost until the next restart."""
    budget = Budget(total=10, each=10)
    guest = Guest()
    guest.hold(await budget.take("a", 4))

    guest.leave()
    guest.hold(await budget.take("a", 6))

    assert (await budget.take("b", 10)).size == 10


async def test_an_empty_message_leaves_nothing_behind():
    """A broken till sends messages without a byte in them: no retailer is remembered for it."""
    budget = Budget()

    (await budget.take("a", 0)).give_back()

    assert not budget._payers


@pytest.mark.parametrize("moment", range(4))
async def test_a_till_may_be_asked_to_leave_twice(moment):
    """A till is sent away in the very moment in which the service stops: it hears the first reason,
    and the stop goes on."""
    guest = Guest()
    waiting = asyncio.create_task(guest.wait_for(asyncio.Event().wait))
    await asyncio.sleep(0)

    guest.end(Overloaded("first"))
    for _ in range(moment):
        await asyncio.sleep(0)
    guest.end(Overloaded("second"))

    with pytest.raises(Overloaded, match="first"):
        await waiting
