"""Ends the demo's processes when the demo ends, however it ends.

It leads their process group and reads a pipe that only the demo holds. When that closes, the demo
is over or was killed, and one signal ends the group, this process with it.
"""

import os
import signal
import sys

if __name__ == "__main__":
    sys.stdin.read()
    os.killpg(0, signal.SIGKILL)
