"""The sender against a real gRPC server that follows the contract, and sometimes does not."""

import json
from dataclasses import replace
from datetime import timedelta
from itertools import count

import grpc
import pytest

from support.scripted_service import (
    DEVICE_ID,
    ScriptedService,
    changed,
    fails,
    says,
)
from support.till import SECRET, Till, until
from tillsync.v1 import event_pb2
from tillsync_agent import link
from tillsync_agent.agent import Agent
from tillsync_agent.errors import (
    AddressUnusable,
    EnrolmentRefused,
    NotEnrolled,
    OutboxBusy,
    OutboxInUse,
)
from tillsync_agent.refresh_secret import RefreshSecret, hash_of


@pytest.fixture
async def service():
    async with ScriptedService() as running:
        yield running


@pytest.fixture
def till(tmp_path, service):
    till = Till(tmp_path, service)
    yield till
    till.close()


async def test_a_day_of_sales_arrives_once_and_in_order(till, service):
    """The shopkeeper sells all day; head office has each sale once, in the order of the receipts,
    in few large batches."""
    keys = till.record(120)

    await till.drained()

    assert sorted(service.stored) == keys
    assert len(service.batches) == 1
    assert till.outbox.summary().settled == 120


async def test_a_sale_is_sent_soon_after_it_is_recorded(till, service):
    """The shopkeeper sells while the agent runs: nothing has to be started for it to be sent."""
    async with till.agent():
        first = till.record()
        await until(lambda: service.stored)
        second = till.record()
        await until(lambda: len(service.stored) == 2)

    assert list(service.stored) == first + second
    assert len(service.tokens) == 1


async def test_one_unreadable_sale_delays_no_other(till, service):
    """One of 300 sales makes every request that holds it unusable: the other 299 arrive, it stays
    on the till by itself, and status says why (I9, F13, F37)."""
    keys = till.record(300)
    poison = keys[123]

    async def chokes(service, request, context):
        if poison in [event.key for event in request.events]:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "not a message")
        return service.answer(request.events).SerializeToString()

    service.always = chokes

    async with till.agent() as agent:
        left = await agent.drain(20)

    assert list(service.stored) == [key for key in keys if key != poison]
    assert left.waiting == 1
    assert "INVALID_ARGUMENT" in left.why
    assert till.outbox.summary().held == 1


async def test_a_batch_larger_than_a_proxy_takes_is_sent_in_smaller_ones(till, service):
    """Something between shop and head office takes small messages only: smaller batches go
    through, and nobody has to change a setting (F37)."""
    keys = till.record(200)

    async def small_only(service, request, context):
        if len(request.events) > 30:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, "Received message larger than max (9 vs. 4)"
            )
        return service.answer(request.events).SerializeToString()

    service.always = small_only

    await till.drained()

    assert sorted(service.stored) == sorted(keys)


async def test_batches_grow_back_after_trouble(till, service):
    """A bad quarter of an hour does not leave the shop with a slow till: after successes the
    batches are as large as before."""
    till.record(600)
    service.script.extend([fails(grpc.StatusCode.INVALID_ARGUMENT)] * 5)

    await till.drained()

    sizes = [len(batch) for batch in service.batches]
    assert sizes[:6] == [500, 250, 125, 62, 31, 15]
    assert sizes[6:9] == [30, 60, 120]
    assert len(service.stored) == 600


async def test_a_broken_service_that_refuses_everything_is_not_hammered(till, service):
    """Every request is answered INVALID_ARGUMENT: the till does not put one sale after the other
    aside at full speed, it waits longer and longer, and sends all when the service is mended."""
    till.record(40)
    service.always = fails(grpc.StatusCode.INVALID_ARGUMENT, "I am confused")

    async with till.agent():
        await until(lambda: till.note.failures_in_a_row >= 3)

    assert till.waiting == 40
    assert len(service.batches) <= 15


async def test_refused_and_conflicting_sales_are_kept_with_their_reasons(till, service):
    """Head office refuses a sale and finds another under a used key: both stay on the till as dead
    letters with the reason, and the third is stored."""
    key = till.record()[0]
    await till.drained()
    till.outbox.record(("example.com/other", b"x"), key=key)
    refused = till.record()[0]
    good = till.record()[0]

    def refuse(response):
        response.verdicts[1].CopyFrom(
            event_pb2.Verdict(
                outcome=event_pb2.OUTCOME_REJECTED,
                refusal=event_pb2.Refusal(reason="EVENT_NOT_STORABLE", field="key"),
            )
        )

    service.script.append(changed(refuse))
    await till.drained()

    letters = {letter.key: (letter.outcome, letter.reason) for letter in till.outbox.dead_letters()}
    assert letters == {
        key: ("conflict", "KEY_CONFLICT"),
        refused: ("rejected", "EVENT_NOT_STORABLE"),
    }
    assert good in service.stored


async def test_a_cloned_till_numbers_its_sales_anew(till, service, caplog):
    """A disk image was cloned, so that two tills use the same numbers: the sales are all stored,
    the till starts a new epoch, and only one however many of the old numbers still wait."""
    epoch = till.outbox.epoch
    service.sequences = {(epoch, n): "the other till" for n in range(1, 20)}
    till.record(10)
    till.settings = replace(till.settings, batch_events=2)

    await till.drained()
    after = till.outbox.epoch
    till.record(3)
    await till.drained()

    assert after not in {0, epoch}
    assert till.outbox.epoch == after
    assert caplog.text.count("new epoch") == 1
    assert len(service.stored) == 13


async def test_the_clock_offset_is_measured_and_stamped_on_later_sales(till, service):
    """The till's clock is a year behind: no sale is refused, and head office can put the times
    right, because each later sale says by how much (I10)."""
    service.clock_ahead_seconds = timedelta(days=365).total_seconds()
    till.record()
    await till.drained()

    offset_days = till.outbox.clock_offset_ms / 86_400_000

    assert round(offset_days) == 365


async def test_another_agents_gateway_is_not_head_office(till, service):
    """The till was pointed at another till by mistake: its sales all stay, and it says so."""
    till.record(2)

    def queued(response):
        response.history_id = ""
        for verdict in response.verdicts:
            verdict.CopyFrom(event_pb2.Verdict(outcome=event_pb2.OUTCOME_QUEUED))

    service.always = changed(queued)

    async with till.agent():
        await until(lambda: "another agent's gateway" in till.note.last_error)

    assert till.waiting == 2


async def test_a_token_that_ended_is_replaced_at_once(till, service):
    """The till was asleep and its token ended: it gets a new one and sends, without waiting."""
    till.record()
    async with till.agent():
        await until(lambda: till.waiting == 0)
        service.tokens.clear()
        till.record()
        await until(lambda: till.waiting == 0)

    assert till.note.last_error == ""
    assert len(service.tokens) == 1


async def test_tokens_are_renewed_before_they_end(till, service):
    """Tokens live for a second: the shop's sales flow on across three of them, and no call is
    ever refused for its token."""
    service.token_seconds = 1.0

    async with till.agent():
        while len(service.tokens) < 4:
            till.record()
            await until(lambda: till.waiting == 0)

    assert service.tokens_refused == 0


async def test_a_second_agent_on_one_outbox_refuses(till):
    """Somebody starts the agent twice: the second one says who is running, and sends nothing
    (F30)."""
    async with till.agent():
        with pytest.raises(OutboxInUse, match="already being sent"):
            async with Agent(till.settings):
                pass


async def test_a_till_without_an_identity_says_so(tmp_path, service):
    """The agent was started before anybody enrolled the till: one clear sentence, no loop."""
    till = Till(tmp_path, service)
    till.settings.secret_path.unlink()

    with pytest.raises(NotEnrolled, match="not enrolled"):
        async with till.agent():
            pass
    till.close()


@pytest.mark.parametrize("address", ["head-office", "head-office:", ":443", "a:b"])
async def test_an_address_that_can_never_work_is_refused_at_once(tmp_path, service, address):
    """A typing error in the address is said at the start and not after an hour of retries."""
    till = Till(tmp_path, service, address=address)

    with pytest.raises(AddressUnusable, match="HOST:PORT"):
        async with till.agent():
            pass
    till.close()


async def test_a_stop_finishes_the_batch_under_way(till, service):
    """The shopkeeper shuts the till down in the middle of a batch: its answer is still heard, so
    that nothing is sent twice tomorrow."""
    till.record(5)

    async with till.agent(on_step=lambda step: step == "send" and agent_stop()) as agent:
        agent_stop = agent.stop
        await until(lambda: service.batches)

    assert till.waiting == 0


async def test_a_drain_ends_when_the_agent_is_stopped(till, service):
    """The shopkeeper's till is shut down while it drains: the drain says what still waits, and does
    not keep the processor busy until its time is over."""
    service.always = fails(grpc.StatusCode.UNAVAILABLE)
    till.record(3)
    looks = []

    async with till.agent() as agent:
        await until(lambda: till.note.last_error)
        agent.stop()
        left = await agent.drain(60, looks.append)

    assert (left.waiting, left.why) == (3, "the agent was stopped")
    assert len(looks) == 1


class TestSecretRotation:
    """The refresh secret changes while everything around it may fail."""

    async def test_a_lost_answer_locks_nobody_out(self, till, service):
        """The service took the new secret and its answer was lost, again and again: the till
        still gets in, with the secret it had and the proposal it made."""
        secret = till.settings.secret_path
        rotated = RefreshSecret(secret, wall=lambda: 0.0)
        first = rotated.to_show()

        again = RefreshSecret(secret, wall=lambda: 0.0).to_show()

        assert again == first
        assert again[1] != b""

    async def test_an_old_secret_is_rotated_and_the_new_one_opens_the_door(self, till, service):
        """The secret is a day old: the next token brings a new one, and tomorrow it works."""
        held = till.settings.secret_path
        held.write_text(json.dumps({"current": SECRET.hex()}))
        till.record()
        await till.drained()
        till.record()
        await till.drained()

        assert len(service.proposals) == 1
        assert RefreshSecret(held).to_show()[0] != SECRET

    async def test_a_service_restored_from_a_backup_still_knows_the_till(self, till, service):
        """Head office was restored to last week and knows an older secret: the till finds the one
        that is known there, and puts its sales back (I11)."""
        held = till.settings.secret_path
        before = set(service.secrets)
        held.write_text(json.dumps({"current": SECRET.hex()}))
        till.record()
        await till.drained()
        service.secrets = before
        service.stored.clear()
        till.record()

        await till.drained()

        assert len(service.stored) == 1

    async def test_an_empty_answer_costs_no_secret(self, till, service):
        """Something that is not our service answers IssueToken with an empty message: the secret
        that works is not given up for one that nobody has heard of."""
        service.secrets.clear()
        held = till.settings.secret_path
        held.write_text(json.dumps({"current": SECRET.hex()}))
        service.check_secrets = False
        service.token_text = ""
        till.record()

        async with till.agent():
            await until(lambda: "holds no token" in till.note.last_error)

        assert RefreshSecret(held).to_show()[0] == SECRET
        assert till.waiting == 1


GARBAGE = [b"", b"\xff\xff\xff", b"<html>sign in</html>", b"\x0a\x00"]


@pytest.mark.parametrize("raw", GARBAGE)
async def test_garbage_for_a_token_stops_no_till(till, service, raw):
    """Something between shop and head office answers the question for a token with bytes that mean
    nothing: the shopkeeper's agent goes on, gives no secret up for it, and sends when the answers
    make sense again."""
    till.settings.secret_path.write_text(json.dumps({"current": SECRET.hex()}))
    service.token_answers.extend([raw] * 2)
    keys = till.record(3)

    async with till.agent() as agent:
        await until(lambda: "GARBAGE: the answer holds no token" in till.note.last_error)
        assert RefreshSecret(till.settings.secret_path).to_show()[0] == SECRET
        left = await agent.drain(20)

    assert left.waiting == 0
    assert list(service.stored) == keys


@pytest.mark.parametrize("raw", GARBAGE)
async def test_garbage_for_an_identity_enrols_nothing(till, service, raw):
    """Something that is not head office answers the enrolment: the shopkeeper's technician reads
    so, and the same code works afterwards, with the secret that the first try showed."""
    secret = RefreshSecret(till.folder / "another-secret.json")
    service.enroll_answers.append(raw)

    with pytest.raises(EnrolmentRefused, match="not one of a Tillsync service"):
        await link.enroll(till.settings, secret, "AB-CD", "till 3")
    with pytest.raises(NotEnrolled):
        secret.to_show()
    shown = set(service.secrets)
    identity = await link.enroll(till.settings, secret, "AB-CD", "till 3")

    assert identity.device_id == DEVICE_ID
    assert service.secrets == shown
    assert hash_of(secret.to_show()[0]) in shown


@pytest.mark.parametrize("raw", GARBAGE)
async def test_garbage_for_an_answer_settles_nothing(till, service, raw):
    """Something answers with bytes that mean nothing: the sales stay, and are sent when the
    answers make sense again."""
    keys = till.record(3)
    service.script.extend([says(raw)] * 2)

    await till.drained()

    assert sorted(service.stored) == keys


async def test_after_a_settling_that_failed_the_oldest_sales_go_first(
    tmp_path, service, monkeypatch
):
    """The shopkeeper's disk is busy for a moment in the middle of a backlog: what was sent then is
    sent again before anything newer, so that head office gets the sales in their order."""
    till = Till(tmp_path, service, batch_events=5)
    keys = till.record(40)
    settle, calls = till.outbox.settle, count(1)

    def busy_once(settlements):
        if next(calls) == 2:
            raise OutboxBusy("the disk is busy")
        settle(settlements)

    monkeypatch.setattr(till.outbox, "settle", busy_once)

    await till.drained()

    fives = [keys[start : start + 5] for start in range(0, 40, 5)]
    assert service.batches == fives[:3] + fives[1:]
    till.close()
