"""The rounds over the open calls, which end what must not stay."""

import asyncio

import pytest

from tillsync_service.foundation import limits
from tillsync_service.foundation.errors import PermissionDenied
from tillsync_service.foundation.house import House


async def test_rounds_go_on_after_an_error_of_our_own(monkeypatch):
    """Something unforeseen about one till's call must not let a stolen till's silent stream stay:
    the round goes on to it all the same."""
    monkeypatch.setattr(limits, "ROUND_SECONDS", 0)
    house = House()

    def stumble():
        raise RuntimeError("unforeseen")

    def revoked():
        raise PermissionDenied("This device was revoked.")

    with house.visited("odd") as odd, house.visited("stolen") as stolen:
        odd.must_be_welcome, stolen.must_be_welcome = stumble, revoked
        rounds = asyncio.create_task(house.keep_in_order())

        with pytest.raises(PermissionDenied):
            await asyncio.wait_for(stolen.wait_for(asyncio.Event().wait), 10)

        assert not rounds.done()
        rounds.cancel()
