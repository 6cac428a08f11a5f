"""The smoke test: one till's first sale, and what may go wrong with it, on a running service."""

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from time import monotonic
from uuid import uuid4

from tillsync.v1.event_pb2 import Outcome, Verdict
from tillsync_service.operator.client import OperatorError, Service
from tillsync_service.operator.trial import Trial, a_sale

# Does its step, and says in a few words how it went. Raises OperatorError.
Act = Callable[[], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class Step:
    """How one step went. `detail` is for a person."""

    step: str
    passed: bool
    detail: str
    ms: float


class Smoke:
    """One run. `report` hears of each step as it ends."""

    def __init__(self, service: Service, report: Callable[[Step], None]) -> None:
        self._service = service
        self._report = report
        self._trial = Trial(service, "tillsync-service smoke")
        self._code = ""
        self._key = str(uuid4())
        self._position = 0

    async def run(self) -> bool:
        """Whether everything went well. The first failure ends it; what it made is removed
        whatever happens."""
        passed = True
        try:
            for name, act in self._steps():
                passed = passed and await self._passes(name, act)
        finally:
            if self._trial.may_exist:
                passed = await self._passes("clean up", self._removed) and passed
        return passed

    def _steps(self) -> Iterator[tuple[str, Act]]:
        yield "health", self._healthy
        yield "tenant", self._tenant
        yield "store and code", self._store
        yield "enrol a till", self._enrolled
        yield "token", self._token
        yield "a sale", self._accepted
        yield "the same again", self._duplicate
        yield "another body", self._conflict
        yield "a bad one", self._rejected

    async def _passes(self, name: str, act: Act) -> bool:
        began = monotonic()
        try:
            passed, detail = True, await act()
        except OperatorError as error:
            passed, detail = False, str(error)
        self._report(Step(name, passed, detail, round((monotonic() - began) * 1000, 1)))
        return passed

    async def _healthy(self) -> str:
        await self._service.must_serve()
        return "SERVING"

    async def _tenant(self) -> str:
        await self._trial.make_tenant()
        return f"{self._trial.tenant_id}, disposable"

    async def _store(self) -> str:
        self._code = await self._trial.make_code()
        return "made"

    async def _enrolled(self) -> str:
        return f"device {await self._trial.enrol(self._code)}"

    async def _token(self) -> str:
        await self._trial.token()
        return "issued"

    async def _accepted(self) -> str:
        verdict = await self._trial.ingest(a_sale(self._key, 1, receipt="1"))
        _must_be(Outcome.OUTCOME_ACCEPTED, verdict)
        self._position = verdict.position
        return f"ACCEPTED at position {verdict.position}"

    async def _duplicate(self) -> str:
        verdict = await self._trial.ingest(a_sale(self._key, 1, receipt="1"))
        _must_be(Outcome.OUTCOME_DUPLICATE, verdict)
        self._must_be_at_first_position(verdict)
        return f"DUPLICATE of position {verdict.position}"

    async def _conflict(self) -> str:
        verdict = await self._trial.ingest(a_sale(self._key, 2, receipt="2"))
        _must_be(Outcome.OUTCOME_CONFLICT, verdict)
        self._must_be_at_first_position(verdict)
        return f"CONFLICT with position {verdict.position}"

    async def _rejected(self) -> str:
        verdict = await self._trial.ingest(a_sale("", 3, receipt="3"))
        _must_be(Outcome.OUTCOME_REJECTED, verdict)
        if verdict.refusal.field != "key":
            raise OperatorError(f"REJECTED names {verdict.refusal.field!r}, not the empty key.")
        return "REJECTED, naming key"

    async def _removed(self) -> str:
        await self._trial.remove()
        return "the tenant is removed"

    def _must_be_at_first_position(self, verdict: Verdict) -> None:
        if verdict.position != self._position:
            raise OperatorError(
                f"{outcome_name(verdict)} names position {verdict.position}, but the sale is at "
                f"{self._position}."
            )


def outcome_name(verdict: Verdict) -> str:
    """The outcome's name without its prefix; a number, if a newer service sent it."""
    try:
        return Outcome.Name(verdict.outcome).removeprefix("OUTCOME_")
    except ValueError:
        return f"outcome {verdict.outcome}"


def _must_be(expected: "Outcome.ValueType", verdict: Verdict) -> None:
    if verdict.outcome != expected:
        wanted = Outcome.Name(expected).removeprefix("OUTCOME_")
        why = f": {verdict.refusal.description}" if verdict.refusal.description else ""
        raise OperatorError(f"{outcome_name(verdict)} instead of {wanted}{why}")
