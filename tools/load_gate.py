"""Decides about a load test: `tillsync-service loadtest | python3 tools/load_gate.py …`.

Reads the test's last line. Exit status: 0 it was fast and whole enough, 1 it was not.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from typing import Any


def main() -> int:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--p95-ms", type=float, required=True, help="95 of 100 calls are as fast")
    words.add_argument("--error-rate", type=float, required=True, help="0.001: one call in 1,000")
    limits = words.parse_args()
    lines = sys.stdin.read().splitlines()
    if not lines:
        print("the load test said nothing: it could not run")
        return 1
    tally = json.loads(lines[-1])
    print(json.dumps(tally))
    troubles = list(_troubles(tally, limits.p95_ms, limits.error_rate))
    print("\n".join(troubles) or "the load test holds")
    return 1 if troubles else 0


def _troubles(tally: dict[str, Any], p95_ms: float, error_rate: float) -> Iterator[str]:
    errors = tally["other"] / tally["total"]
    if errors > error_rate:
        yield f"{errors:.2%} of the calls failed; {error_rate:.2%} may"
    if tally["p95_ms"] is None or tally["p95_ms"] > p95_ms:
        yield f"95 of 100 calls took up to {tally['p95_ms']} ms; {p95_ms:g} are allowed"
    # A call without an answer may have counted or not; no sale may ever have counted twice.
    if tally["accepted"] > tally["unique"] or (
        not tally["other"] and tally["accepted"] != tally["unique"]
    ):
        yield f"{tally['unique']} different sales were sent and {tally['accepted']} counted"


if __name__ == "__main__":
    sys.exit(main())
