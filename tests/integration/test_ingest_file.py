"""The USB stick: a backlog that comes by file counts exactly like one that came by wire."""

import json
import struct
import zlib
from pathlib import Path

import pytest

from support.builders import NOW, an_event, examined
from support.service import names
from tillsync.v1.event_pb2 import Event
from tillsync_service.foundation.identity import Device
from tillsync_service.ingest.backlog_file import BacklogFileError, take_in
from tillsync_service.ingest.group_commit import GroupCommit
from tillsync_service.ingest.store import IngestStore


@pytest.fixture
def store(database):
    return IngestStore(database)


def frame(content: bytes) -> bytes:
    return struct.pack(">II", len(content), zlib.crc32(content)) + content


def a_file(folder: Path, device: Device, *events: Event, trailer: bool = True, **header) -> Path:
    lines = {
        "format": "tillsync-export",
        "version": 1,
        "tenant_id": str(device.tenant_id),
        "store_id": str(device.store_id),
        "device_id": str(device.device_id),
        **header,
    }
    count = struct.pack(">Q", len(events))
    content = json.dumps(lines).encode() + b"\n"
    content += b"".join(frame(event.SerializeToString()) for event in events)
    if trailer:
        content += struct.pack(">II", 0, zlib.crc32(count)) + count
    path = folder / "till.tillsync"
    path.write_bytes(content)
    return path


async def test_i2_a_sale_by_file_and_by_wire_counts_once(store, device, books, tmp_path):
    """A till without a link hands its backlog over on a stick. When the link is back it sends the
    same sales, and each of them is a DUPLICATE."""
    sales = [an_event(f"s{number}", number=number + 1) for number in range(1500)]
    by_wire = GroupCommit(store)
    await by_wire.submit(device.tenant_id, examined(device, *sales[:3]))

    report = await take_in(store, a_file(tmp_path, device, *sales), NOW)
    again = await take_in(store, tmp_path / "till.tillsync", NOW)
    receipt = await by_wire.submit(device.tenant_id, examined(device, *sales[:1000]))

    assert report.outcomes == {"DUPLICATE": 3, "ACCEPTED": 1497}
    assert again.outcomes == {"DUPLICATE": 1500}
    assert report.is_complete
    assert again.is_complete
    assert names(receipt.verdicts) == ["DUPLICATE"] * 1000
    assert await books.keys(device.tenant_id) == [sale.key for sale in sales]
    assert await books.progress(device.tenant_id) == {(device.device_id, 7): {*range(1, 1501)}}


async def test_a_file_that_was_cut_off_gives_what_is_whole(store, device, books, tmp_path):
    """The stick was pulled out too early: the whole sales are taken in and the operator is told to
    copy the file again, which then brings the rest."""
    sales = [an_event(f"s{number}") for number in range(10)]
    path = a_file(tmp_path, device, *sales)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])

    cut = await take_in(store, path, NOW)
    taken = len(await books.keys(device.tenant_id))
    path.write_bytes(whole)
    complete = await take_in(store, path, NOW)

    assert not cut.is_complete
    assert "copy it again" in str(cut)
    assert 0 < taken < 10
    assert complete.is_complete
    assert len(await books.keys(device.tenant_id)) == 10


@pytest.mark.parametrize("damage", ["a flipped bit", "no trailer", "more behind the trailer"])
async def test_a_damaged_file_is_never_called_whole(store, device, books, tmp_path, damage):
    """A bad stick changes a byte or loses the end: no sale is taken in wrongly, and it is said."""
    sales = [an_event(f"s{number}", receipt=f"receipt-{number}") for number in range(10)]
    path = a_file(tmp_path, device, *sales, trailer=damage != "no trailer")
    content = path.read_bytes()
    if damage == "a flipped bit":
        content = content.replace(b"receipt-5", b"receipt-4")
    if damage == "more behind the trailer":
        content += b"x"
    path.write_bytes(content)

    report = await take_in(store, path, NOW)

    assert not report.is_complete
    stored = {row["key"]: row["body"] for row in await books.events(device.tenant_id)}
    assert stored.items() <= {sale.key: sale.body.value for sale in sales}.items()


async def test_a_bad_sale_in_the_file_is_counted_and_holds_up_none(store, device, books, tmp_path):
    """I9 by file: a sale without a key and one whose key is another sale's are named by their
    number; the others are in."""
    await GroupCommit(store).submit(
        device.tenant_id, examined(device, an_event("taken", receipt="2"))
    )

    report = await take_in(
        store,
        a_file(tmp_path, device, an_event("a"), an_event(""), an_event("taken"), an_event("b")),
        NOW,
    )

    assert report.outcomes == {"ACCEPTED": 2, "REJECTED": 1, "CONFLICT": 1}
    assert not report.is_complete
    assert await books.keys(device.tenant_id) == ["taken", "a", "b"]


@pytest.mark.parametrize(
    "header",
    [{"format": "holiday-photos"}, {"version": 2}, {"tenant_id": "x"}, {"device_id": None}],
)
async def test_another_kind_of_file_is_refused_whole(store, device, books, tmp_path, header):
    """The wrong file on the stick stores nothing and is called what it is."""
    path = a_file(tmp_path, device, an_event(), **header)

    with pytest.raises(BacklogFileError, match=str(path)):
        await take_in(store, path, NOW)

    assert await books.keys(device.tenant_id) == []


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n\0\0", b"[]\n", b"null\n"])
async def test_a_file_without_a_header_is_refused(store, tmp_path, content):
    """A photo that was named like a backlog is refused in one line."""
    path = tmp_path / "x.tillsync"
    path.write_bytes(content)

    with pytest.raises(BacklogFileError):
        await take_in(store, path, NOW)


async def test_a_file_of_an_unknown_device_is_refused(store, books, device, tmp_path):
    """A stick of another company's till brings nothing into these books."""
    other = await books.enrol()
    stranger = Device(device.tenant_id, device.store_id, other.device_id)

    with pytest.raises(BacklogFileError, match="does not know"):
        await take_in(store, a_file(tmp_path, stranger, an_event()), NOW)
