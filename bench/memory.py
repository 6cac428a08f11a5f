"""How much memory a process has held at the most."""

from pathlib import Path

import psutil

_MEGABYTE = 1024 * 1024


def peak_megabytes(pid: int) -> float:
    """The most resident memory process `pid` has held since it was started.

    Not getrusage's figure: Linux hands that on through fork and exec, so that a small child of a
    large parent looks large. Where /proc is missing: what it holds now.
    """
    status = Path(f"/proc/{pid}/status")
    if status.exists():
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return float(psutil.Process(pid).memory_info().rss) / _MEGABYTE
