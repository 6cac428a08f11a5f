"""Reads a tenant's feed into a SQLite file, each event exactly once.

    pip install grpcio tillsync-protos
    export TILLSYNC_TOKEN=$(tillsync-service integrator-token --tenant $TENANT --name erp)
    python consumer.py --service 127.0.0.1:7070 --database sales.db

Exactly once, because each page and the cursor after it are stored in one transaction: after a crash
anywhere it goes on after the last page that is stored. The cursor in the file decides; the one that
is committed to the service is for its operator, who sees how far behind this consumer is.
"""

import argparse
import os
import random
import sqlite3
import sys
import time
from pathlib import Path

import grpc

from tillsync.v1 import feed_service_pb2 as pb
from tillsync.v1.feed_service_pb2_grpc import FeedServiceStub

MOST_SECONDS_BETWEEN_TRIES = 30.0
# A link that died without a word is noticed after half a minute.
CHANNEL_OPTIONS = (("grpc.keepalive_time_ms", 20_000), ("grpc.keepalive_timeout_ms", 10_000))
# The same again later.
PASSING = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.DEADLINE_EXCEEDED,
}
# The service was restored from a backup: its positions mean something else now.
PLACE_LOST = {"HISTORY_CHANGED", "CURSOR_INVALID"}

SCHEMA = """
    CREATE TABLE IF NOT EXISTS event (
        key TEXT PRIMARY KEY, position INTEGER NOT NULL, store_id TEXT NOT NULL,
        received_at TEXT NOT NULL, type_url TEXT NOT NULL, body BLOB NOT NULL
    );
    CREATE TABLE IF NOT EXISTS place (only_one INTEGER PRIMARY KEY, cursor BLOB NOT NULL);
"""


class Sales:
    """The file: events, and the cursor after the last of them."""

    def __init__(self, path: str) -> None:
        self._file = sqlite3.connect(path)
        self._file.execute("PRAGMA journal_mode = WAL")
        self._file.execute("PRAGMA synchronous = FULL")
        self._file.executescript(SCHEMA)

    @property
    def cursor(self) -> bytes:
        row = self._file.execute("SELECT cursor FROM place").fetchone()
        return row[0] if row else b""

    def store(self, page: pb.SubscribeResponse) -> None:
        """The page and its cursor, both or neither. A key counts once per tenant for ever, so an
        event that comes again, after a restore, is one that is held."""
        with self._file:
            self._file.executemany(
                "INSERT OR IGNORE INTO event VALUES (?, ?, ?, ?, ?, ?)",
                (
                    (
                        sent.event.key,
                        sent.position,
                        sent.store_id,
                        sent.received_at.ToJsonString(),
                        sent.event.body.type_url,
                        sent.event.body.value,
                    )
                    for sent in page.events
                ),
            )
            self._file.execute("INSERT OR REPLACE INTO place VALUES (1, ?)", (page.cursor,))

    def forget_place(self) -> None:
        with self._file:
            self._file.execute("DELETE FROM place")


def main() -> int:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--service", default="127.0.0.1:7070", metavar="HOST:PORT")
    words.add_argument("--ca-file", metavar="PEM", help="TLS, with this CA; without it, plain text")
    words.add_argument("--database", default="sales.db", metavar="FILE")
    words.add_argument("--consumer", default="erp", metavar="NAME")
    words.add_argument("--once", action="store_true", help="end when caught up")
    chosen = words.parse_args()

    sales = Sales(chosen.database)
    metadata = (("authorization", f"Bearer {os.environ['TILLSYNC_TOKEN']}"),)
    tries = 0
    with channel_to(chosen.service, chosen.ca_file) as channel:
        stub = FeedServiceStub(channel)
        while True:
            request = pb.SubscribeRequest(cursor=sales.cursor, live=not chosen.once)
            try:
                for page in stub.Subscribe(request, metadata=metadata):
                    sales.store(page)
                    tries = 0
                    say_how_far(stub, metadata, chosen.consumer, page)
                    if page.caught_up and chosen.once:
                        return 0
            except grpc.RpcError as error:
                if reason_of(error) in PLACE_LOST:
                    print("The service was restored; reading again from the start", file=sys.stderr)
                    sales.forget_place()
                elif error.code() in PASSING:
                    tries += 1
                    print(f"{error.code().name}: {error.details()}", file=sys.stderr)
                    time.sleep(waiting_seconds(tries))
                else:
                    print(f"{error.code().name}: {error.details()}", file=sys.stderr)
                    return 1
            # A stream ends by itself after some minutes; the next one begins after the last page.


def say_how_far(
    stub: FeedServiceStub, metadata: tuple, consumer: str, page: pb.SubscribeResponse
) -> None:
    """Where it fails, the next page says it again: nothing here depends on it."""
    if not page.events:
        return
    request = pb.CommitCursorRequest(consumer=consumer, cursor=page.cursor)
    try:
        stub.CommitCursor(request, metadata=metadata, timeout=10)
    except grpc.RpcError as error:
        print(f"Not committed: {error.details()}", file=sys.stderr)


def reason_of(error: grpc.RpcError) -> str:
    return dict(error.trailing_metadata() or ()).get("tillsync-reason", "")


def waiting_seconds(tries: int) -> float:
    """Longer each time and never in step with others."""
    return random.random() * min(MOST_SECONDS_BETWEEN_TRIES, 2.0 ** min(tries, 10))  # noqa: S311 - no secret


def channel_to(address: str, ca_file: str | None) -> grpc.Channel:
    if ca_file is None:
        return grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
    credentials = grpc.ssl_channel_credentials(Path(ca_file).read_bytes())
    return grpc.secure_channel(address, credentials, options=CHANNEL_OPTIONS)


if __name__ == "__main__":
    sys.exit(main())
