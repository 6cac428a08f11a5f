"""One import as the operator's end sees it: lines go out, and what was refused comes back by line.

Nothing is published before `publish`: whoever leaves before that has changed nothing.
"""

from collections import deque
from collections.abc import Iterable

from tillsync.v1 import record_service_pb2 as pb
from tillsync_service.foundation import limits
from tillsync_service.operator.client import CallFailed, Exchange
from tillsync_service.operator.record_files import BadLine, Line

# A quarter of what a message may have: a line more, whatever its size, fits in.
_MAX_MESSAGE_CHARACTERS = limits.MAX_REQUEST_BYTES // 4
# One message is staged while the next is made ready.
_MAX_UNANSWERED = 2
_SHOWN_BAD_LINES = 20


class Importing:
    """`bad_lines`: the first few; `refused` counts all of them."""

    def __init__(
        self, exchange: Exchange[pb.ImportRecordsRequest, pb.ImportRecordsResponse]
    ) -> None:
        self._exchange = exchange
        self._waiting: list[Line] = []
        self._waiting_characters = 0
        self._unanswered: deque[list[int]] = deque()
        """The line numbers of each message that is not answered yet."""
        self._answered = 0
        self.bad_lines: list[BadLine] = []
        self.refused = 0

    async def begin(self, settings: pb.ImportSettings) -> None:
        """Raises CallFailed: there is no such place, or no service."""
        await self._exchange.send(pb.ImportRecordsRequest(settings=settings))
        await self._exchange.answer()

    async def take(self, line: Line | BadLine) -> None:
        if isinstance(line, BadLine):
            self._refuse(line)
            return
        self._waiting.append(line)
        self._waiting_characters += len(line.body) + len(line.record_id)
        if (
            len(self._waiting) == limits.MAX_IMPORT_MESSAGE_RECORDS
            or self._waiting_characters > _MAX_MESSAGE_CHARACTERS
        ):
            await self._send(self._waiting)
            self._waiting, self._waiting_characters = [], 0

    async def take_to_the_end(self) -> None:
        """Everything that was taken is staged or refused."""
        if self._waiting:
            await self._send(self._waiting)
            self._waiting = []
        while self._unanswered:
            await self._hear()
        self.bad_lines.sort(key=lambda line: line.number)

    async def publish(self) -> pb.ImportResult:
        """What the import changed, all of it at once."""
        try:
            await self._exchange.end()
            return (await self._exchange.answer()).result
        except CallFailed as error:
            if not error.may_have_happened:
                raise
            raise CallFailed(
                f"{error} Perhaps it was published; a repeat publishes only what differs.",
                error.code,
            ) from None

    async def _send(self, lines: Iterable[Line]) -> None:
        request = pb.ImportRecordsRequest(
            record_ids=[line.record_id for line in lines], bodies=[line.body for line in lines]
        )
        await self._exchange.send(request)
        self._unanswered.append([line.number for line in lines])
        if len(self._unanswered) == _MAX_UNANSWERED:
            await self._hear()

    async def _hear(self) -> None:
        answer = await self._exchange.answer()
        numbers = self._unanswered.popleft()
        for refused in answer.refused:
            self._refuse(BadLine(numbers[refused.index - self._answered], refused.description))
        self._answered += len(numbers)

    def _refuse(self, line: BadLine) -> None:
        self.refused += 1
        if len(self.bad_lines) < _SHOWN_BAD_LINES:
            self.bad_lines.append(line)
