"""Probes as a load balancer's: `python -m bench.probe_child ADDRESS HTTP_ADDRESS`.

Asks fifty times a second, over gRPC and HTTP in turn, until its input ends, and prints
{"milliseconds": [each answer's]}.
"""

import json
import sys
import threading
import time
import urllib.request

import grpc
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

_EVERY_SECONDS = 0.02


def _probe(address: str, http_address: str) -> list[float]:
    over = threading.Event()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        over.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    took: list[float] = []
    with grpc.insecure_channel(address) as channel:
        health = HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service="readiness")
        while not over.wait(_EVERY_SECONDS):
            began = time.perf_counter()
            if len(took) % 2:
                health.Check(request, timeout=30)
            else:
                with urllib.request.urlopen(f"http://{http_address}/readyz", timeout=30) as answer:
                    answer.read()
            took.append((time.perf_counter() - began) * 1000)
    return took


if __name__ == "__main__":
    print(json.dumps({"milliseconds": _probe(*sys.argv[1:])}), flush=True)
