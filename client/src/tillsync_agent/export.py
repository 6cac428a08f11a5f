"""The backlog as one file, for a device whose link is dead for good: carried to head office on a
USB stick and taken in by `tillsync-service ingest-file`. Nothing is settled by it: when the device
comes back it sends the same events, and hears DUPLICATE.

The format, version 1; numbers are unsigned and big-endian:

    header    one line of JSON in UTF-8, ended by one line feed:
                  {"format": "tillsync-export", "version": 1, "device_id": "...", "store_id": "...",
                   "tenant_id": "...", "exported_at": "2026-11-22T15:04:05+00:00"}
              exported_at is by the device's clock. Readers ignore members they do not know.
    event     4 bytes   length of the message, never 0
              4 bytes   CRC-32 (ISO-HDLC, as in zlib) of the message
              n bytes   the message: one serialized tillsync.v1.Event, in the order of recording
    ...       further events
    trailer   4 bytes   0
              4 bytes   CRC-32 of the next 8 bytes
              8 bytes   how many events there are
              and nothing after it

A file without its trailer, or with another count, was cut off: every event in it that passes its
CRC is good, and the rest is still on the device.
"""

import json
import os
import struct
import zlib
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from tillsync_agent.config import Settings
from tillsync_agent.errors import NotEnrolled
from tillsync_agent.files import sync_folder

FORMAT = "tillsync-export"
VERSION = 1
_FRAME = struct.Struct(">II")
_COUNT = struct.Struct(">Q")


def write_export(
    path: Path, envelopes: Iterable[bytes], settings: Settings, *, exported_at: datetime
) -> int:
    """Writes serialized Events to `path`; returns how many.

    The name appears only when the file is whole and on the disk. Raises OSError; the unfinished
    file is removed then. Raises NotEnrolled: a file that does not say whose sales it holds is of
    no use to head office.
    """
    if not settings.device_id:
        raise NotEnrolled("this device is not enrolled: run `tillsync-agent enroll`, then export")
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("xb") as file:
            file.write(_header(settings, exported_at))
            count = _write_events(file, envelopes)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
    return count


def _header(settings: Settings, exported_at: datetime) -> bytes:
    header = {
        "format": FORMAT,
        "version": VERSION,
        "device_id": settings.device_id,
        "store_id": settings.store_id,
        "tenant_id": settings.tenant_id,
        "exported_at": exported_at.isoformat(timespec="seconds"),
    }
    return json.dumps(header).encode() + b"\n"


def _write_events(file: BinaryIO, envelopes: Iterable[bytes]) -> int:
    count = 0
    for envelope in envelopes:
        file.write(_FRAME.pack(len(envelope), zlib.crc32(envelope)) + envelope)
        count += 1
    tail = _COUNT.pack(count)
    file.write(_FRAME.pack(0, zlib.crc32(tail)) + tail)
    return count
