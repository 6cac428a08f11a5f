"""tillsync-agent on a device whose clock is wrong.

    python wrong_clock.py SHIFT_FILE [ARGUMENT]...

SHIFT_FILE holds how many seconds the wall clock is ahead. It is read whenever the time is asked
for, so that the clock of a running agent can jump. The monotonic clock is the machine's own.
"""

import datetime as dt
import sys
import time
from pathlib import Path

_shift_file = Path(sys.argv.pop(1))
_right_datetime, _right_time, _right_time_ns = dt.datetime, time.time, time.time_ns


class _WrongDatetime(_right_datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(_wrong_time(), tz)


def _wrong_time() -> float:
    return _wrong_time_ns() / 1e9


def _wrong_time_ns() -> int:
    return _right_time_ns() + int(_shift_file.read_text()) * 1_000_000_000


dt.datetime = _WrongDatetime
time.time, time.time_ns = _wrong_time, _wrong_time_ns

from tillsync_agent.cli import main  # noqa: E402 - what is imported here keeps the wrong clock

# gRPC counts its deadlines from time.time(), and its core sees the machine's real clock.
time.time = _right_time

if __name__ == "__main__":
    main(prog_name="tillsync-agent")
