"""Reads the file that `tillsync-agent export` writes: the backlog of a device without a link.

The format, version 1; numbers are unsigned and big-endian:

    header    one line of JSON: format "tillsync-export", version, tenant_id, store_id, device_id
    event     4 bytes length (not 0), 4 bytes CRC-32, then one serialized tillsync.v1.Event
    trailer   4 bytes 0, 4 bytes CRC-32 of the next 8 bytes, 8 bytes number of events

A file without its trailer was cut off; its whole events are good.
"""

import json
import struct
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Self
from uuid import UUID

from google.protobuf.message import DecodeError

from tillsync.v1.event_pb2 import Event, Outcome
from tillsync_service.foundation import limits
from tillsync_service.foundation.identity import Device
from tillsync_service.ingest.examine import examine
from tillsync_service.ingest.group_commit import GroupCommit
from tillsync_service.ingest.store import IngestStore

FORMAT = "tillsync-export"
VERSION = 1
MAX_HEADER_BYTES = 64 * 1024

_FRAME = struct.Struct(">II")
_COUNT = struct.Struct(">Q")


class BacklogFileError(ValueError):
    """The file is not one of `tillsync-agent export`; nothing of it was taken in."""


class BacklogFile:
    """An open file; a context manager. `device` is who recorded it, as its header says; `is_whole`
    is known once the events were read."""

    def __init__(self, path: Path) -> None:
        """Raises BacklogFileError when this is another kind of file."""
        self.is_whole = False
        self._file = path.open("rb")
        try:
            self.device = _device(self._file.readline(MAX_HEADER_BYTES), path)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def events(self) -> Iterator[Event]:
        """The events, up to the end or to where the file was cut off or damaged."""
        for count, message in enumerate(self._messages()):
            if isinstance(message, int):
                self.is_whole = message == count and not self._file.read(1)
                return
            try:
                event = Event.FromString(message)
            except DecodeError:
                return
            yield event

    def _messages(self) -> Iterator[bytes | int]:
        """Each event's bytes and then the trailer's count, as long as checksums hold."""
        while len(frame := self._file.read(_FRAME.size)) == _FRAME.size:
            length, checksum = _FRAME.unpack(frame)
            if length > limits.MAX_REQUEST_BYTES:
                return
            content = self._file.read(length or _COUNT.size)
            if len(content) < (length or _COUNT.size) or zlib.crc32(content) != checksum:
                return
            yield content if length else _COUNT.unpack(content)[0]


@dataclass(frozen=True, slots=True)
class TakenIn:
    """What became of a file's events."""

    outcomes: Mapping[str, int]
    is_whole: bool

    @property
    def is_complete(self) -> bool:
        """Whether the file was whole and each of its events is part of the history."""
        return self.is_whole and not {"CONFLICT", "REJECTED"} & self.outcomes.keys()

    def __str__(self) -> str:
        counts = ", ".join(f"{count:,} {name.lower()}" for name, count in self.outcomes.items())
        cut = (
            "" if self.is_whole else " The file was cut off or damaged after these: copy it again."
        )
        return f"Events: {counts or 'none'}.{cut}"


async def take_in(store: IngestStore, path: Path, now: datetime) -> TakenIn:
    """Stores the file's events as if its device had sent them. Raises BacklogFileError for a
    file or a device that is not ours, and what IngestStore.commit raises."""
    outcomes: Counter[str] = Counter()
    with BacklogFile(path) as file:
        if not await store.knows(file.device):
            raise BacklogFileError(f"{path} is of a device that this service does not know.")
        group_commit = GroupCommit(store)
        events = file.events()
        while batch := list(islice(events, limits.MAX_BATCH_EVENTS)):
            receipt = await group_commit.submit(
                file.device.tenant_id, examine(batch, file.device, now)
            )
            outcomes.update(map(_outcome_name, receipt.verdicts.outcomes))
    return TakenIn(outcomes, file.is_whole)


def _outcome_name(outcome: "Outcome.ValueType") -> str:
    return Outcome.Name(outcome).removeprefix("OUTCOME_")


def _device(line: bytes, path: Path) -> Device:
    try:
        header = json.loads(line)
        version = header["version"] if header["format"] == FORMAT else None
        device = Device(
            UUID(header["tenant_id"]), UUID(header["store_id"]), UUID(header["device_id"])
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BacklogFileError(
            f"{path} is not a file of `tillsync-agent export`; nothing was taken in."
        ) from error
    if version != VERSION:
        raise BacklogFileError(
            f"{path} has version {version}; this program reads version {VERSION}."
        )
    return device
