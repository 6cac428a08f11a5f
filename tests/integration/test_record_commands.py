"""An operator gives tills their prices from a shell, and decides where edits collided."""

import asyncio
import json
import signal
from uuid import UUID, uuid4

import asyncpg
import pytest

from support.operators import Shell, shell_at
from support.polling import eventually
from support.records import head_of
from support.service import ServiceProcess


@pytest.fixture(scope="module")
def place(postgres, tmp_path_factory):
    """A service for all tests of this module, and its database as the migrator sees it; each test
    works in a tenant of its own."""
    name = asyncio.run(postgres.make_database())
    service = ServiceProcess(postgres.serving_url(name), tmp_path_factory.mktemp("service"))
    asyncio.run(service.start())
    yield service, postgres.admin_url(name)
    asyncio.run(service.kill())
    asyncio.run(postgres.drop_database(name))


@pytest.fixture
async def books(place):
    connection = await asyncpg.connect(place[1])
    yield connection
    await connection.close()


class Shop:
    """An operator at a shell with a tenant of his own."""

    def __init__(self, shell: Shell, folder) -> None:
        self.shell = shell
        self.tenant = ""
        self._folder = folder

    def file(self, contents, name="prices.jsonl"):
        path = self._folder / name
        path.write_bytes(contents if isinstance(contents, bytes) else contents.encode())
        return str(path)

    async def run(self, *arguments):
        return await self.shell.run(*arguments, "--tenant", self.tenant)

    async def take_in(self, file, *options):
        return await self.run("records", "import", file, "--collection", "price", *options)

    async def shown(self, record_id, *options):
        ended = await self.run(
            "records", "show", record_id, "--collection", "price", "--json", *options
        )
        return ended.json["body"]


@pytest.fixture
async def shop(place, tmp_path) -> Shop:
    """With a collection of prices, whose definition is version 1."""
    shop = Shop(shell_at(place[0]), tmp_path)
    shop.tenant = (await shop.shell.run("tenants", "create", "-q", "My shops")).out.strip()
    ended = await shop.run(
        "collections", "define", "price", "--policy", "server-wins", "--lookup-key", "barcode"
    )
    assert ended.lines == [["price", "server-wins", "barcode", "10", "1"]]
    return shop


async def test_collections_are_defined_and_listed(shop):
    """The operator says which records tills get, and by whose rules: prices come first, unless he
    says otherwise."""
    for name, options in (("promotions", ()), ("stock", ()), ("vip", ("--load-order", "-1"))):
        await shop.run("collections", "define", name, "--policy", "arrival-wins", *options)
    await shop.take_in(shop.file('{"id":1}\n{"id":2}\n'))

    listed = await shop.run("collections", "list")
    as_json = (await shop.run("collections", "list", "--json")).json

    assert listed.lines == [
        ["price", "server-wins", "barcode", "10", "2"],
        ["promotions", "arrival-wins", "", "20", "0"],
        ["stock", "arrival-wins", "", "100", "0"],
        ["vip", "arrival-wins", "", "-1", "0"],
    ]
    assert as_json[0]["lookup_keys"] == ["barcode"]
    assert [(part["store_id"], part["records"]) for part in as_json[0]["parts"]] == [("", 2)]
    again = await shop.run("collections", "define", "Price", "--policy", "manual")
    assert again.status == 1
    assert "collection.name: " in again.err


async def test_what_no_option_names_stays_as_it_is(shop):
    """The operator changes who wins: every till still finds its prices by barcode and loads them
    when it did; the keys go only when he says so."""
    define = ("collections", "define", "price")
    await shop.run(*define, "--lookup-key", "barcode", "--lookup-key", "plu", "--load-order", "7")

    policy = await shop.run(*define, "--policy", "manual")
    order = await shop.run(*define, "--load-order", "0")
    nothing = await shop.run(*define)
    cleared = await shop.run(*define, "--no-lookup-keys")

    assert policy.lines[0][:4] == ["price", "manual", "barcode,plu", "7"]
    assert order.lines[0][:4] == ["price", "manual", "barcode,plu", "0"]
    assert nothing.lines == order.lines
    assert cleared.lines[0][:4] == ["price", "manual", "", "0"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("customer",), "customer is a new collection: give --policy"),
        (("price", "--lookup-key", "plu", "--no-lookup-keys"), "Give one of --lookup-key and"),
    ],
)
async def test_a_definition_that_says_too_little_or_too_much_changes_nothing(
    shop, arguments, words
):
    """Nobody said who wins, or which keys there are: the operator is asked, and tills notice
    nothing."""
    ended = await shop.run("collections", "define", *arguments)

    assert (ended.status, ended.out) == (2, "")
    assert words in ended.err
    assert len((await shop.run("collections", "list")).lines) == 1


async def test_a_file_of_json_lines_goes_in(shop):
    """The price list of the night goes in with one command; the same again changes nothing."""
    file = shop.file("".join(f'{{"id":{n},"cents":{n * 5}}}\n' for n in range(2_500)))

    first = await shop.take_in(file)
    again = await shop.take_in(file, "--json")

    assert (first.status, first.err) == (0, "")
    assert first.lines == [["2500", "0", "0", "0", "2501"]]
    assert again.json == {
        "changed": 0,
        "unchanged": 2500,
        "deleted": 0,
        "refused": 0,
        "version": 2501,
        "bad_lines": [],
    }
    assert await shop.shown("7") == '{"cents":35,"id":7}'


async def test_a_spreadsheet_goes_in_for_one_store(shop):
    """A store has a price of its own, from a spreadsheet: the others' stays."""
    store = (await shop.run("stores", "create", "-q", "Main street", "--code", "1")).out.strip()
    await shop.take_in(shop.file('{"id":"4711","cents":100}'))

    ended = await shop.take_in(
        shop.file("gtin;cents\n4711;90\n", "p.csv"),
        *("--store", store, "--id-field", "gtin", "--integer", "cents"),
    )

    assert ended.status == 0
    assert await shop.shown("4711") == '{"cents":100,"id":"4711"}'
    assert await shop.shown("4711", "--store", store) == '{"cents":90,"gtin":"4711"}'


async def test_bad_lines_are_told_and_the_rest_goes_in(shop):
    """A list with slips in it: the operator reads which lines and why, also those that only the
    service refuses, and the tills have the other prices."""
    lines = [f'{{"id":{n}}}' for n in range(1, 1_501)]
    lines[4] = "rubbish"
    lines[1_200] = '{"id":1201,"cents":NaN}'
    lines[1_300] = '{"id":"' + "x" * 201 + '"}'

    ended = await shop.take_in(shop.file("\n".join(lines)), "--json")

    assert ended.status == 1
    told = ended.err.splitlines()
    assert ":5: Not JSON" in told[0]
    assert ":1201: Not JSON: NaN is no number" in told[1]
    assert ":1301: An id has 1 to 200 characters" in told[2]
    assert told[3] == "tillsync-service: Lines left out: 3."
    assert len(told) == 4
    assert (ended.json["changed"], ended.json["refused"]) == (1497, 3)
    assert [bad["line"] for bad in ended.json["bad_lines"]] == [5, 1201, 1301]


async def test_of_many_bad_lines_twenty_are_shown_and_all_are_counted(shop):
    """A list that went wrong as a whole does not fill the screen."""
    good, bad = '{"id":1}\n' * 30, '{"cents":1}\n' * 100

    ended = await shop.take_in(shop.file(good + bad))

    assert ended.status == 1
    assert len(ended.err.splitlines()) == 21
    assert ended.err.endswith("Lines left out: 100.\n")
    assert ended.lines == [["1", "0", "0", "100", "2"]]


@pytest.mark.parametrize("option", ["--atomic", "--complete"])
@pytest.mark.parametrize("bad", ["rubbish", '{"id":3,"cents":NaN}'])
async def test_one_bad_line_and_nothing_goes_in(shop, books, option, bad):
    """Whoever wants all or nothing gets nothing; and a product whose line is broken is not deleted
    because the rest of the list was complete."""
    await shop.take_in(shop.file('{"id":3,"cents":1}'))

    ended = await shop.take_in(shop.file(f'{{"id":1}}\n{{"id":2}}\n{bad}\n{{"id":4}}\n'), option)

    assert (ended.status, ended.out) == (1, "")
    assert ended.err.count("\n") == 1
    assert ":3: Not JSON" in ended.err
    assert "Nothing was taken in." in ended.err
    assert await head_of(books, shop.tenant) == 2


async def test_a_complete_list_deletes_the_rest(shop):
    """The list is all there is: what is not on it cannot be sold any more."""
    await shop.take_in(shop.file('{"id":1}\n{"id":2}\n'))

    ended = await shop.take_in(shop.file('{"id":2}\n{"id":3}\n'), "--complete")

    assert ended.lines == [["1", "1", "1", "0", "5"]]
    assert await shop.shown("1") == ""


@pytest.mark.parametrize(
    ("name", "contents", "words"),
    [
        ("prices.jsonl", b"\x89PNG\0\0", "is no text"),
        ("prices.csv", b"<html>", "is HTML or XML"),
        ("prices.csv", "id,name\n1,Käse\n".encode("latin-1"), "not in UTF-8 in line 2"),
        ("prices.csv", b"sku,name\n1,x\n", 'no column "id" (--id-field)'),
        ("prices.jsonl", b"", "is empty"),
        ("prices.txt", b'{"id":1}', "give --format"),
    ],
)
async def test_the_wrong_file_is_one_line_and_nothing_goes_in(shop, books, name, contents, words):
    """The wrong file was picked: the operator reads what it is; no till notices."""
    ended = await shop.take_in(shop.file(contents, name), "--complete")

    assert (ended.status, ended.out) == (1, "")
    assert ended.err.count("\n") == 1
    assert words in ended.err
    assert await head_of(books, shop.tenant) == 1


async def test_a_file_that_turns_bad_far_down_leaves_nothing(shop, books):
    """A file is of two encodings, glued together: what was sent before is not published."""
    lines = b'{"id":1}\n' * 5_000

    ended = await shop.take_in(shop.file(lines + b'{"id":"K\xe4se"}'))

    assert ended.status == 1
    assert "not in UTF-8 in line 5001" in ended.err
    assert await head_of(books, shop.tenant) == 1

    async def nothing_is_left():
        rows = await books.fetchval(
            "SELECT count(*) FROM tillsync.record_staging WHERE tenant_id = $1", UUID(shop.tenant)
        )
        return rows == 0

    await eventually(nothing_is_left)


async def test_what_is_said_beats_the_name(shop):
    """A file called .txt is read as the operator says it is."""
    ended = await shop.take_in(shop.file("id\n7\n", "prices.txt"), "--format", "csv")

    assert ended.status == 0
    assert await shop.shown("7") == '{"id":"7"}'


async def test_ctrl_c_leaves_nothing(shop, books):
    """The operator stops an import in the middle: no till has half a list."""
    row = '{"id":%d,"text":"' + "x" * 500 + '"}\n'
    file = shop.file("".join(row % n for n in range(100_000)))
    command = await shop.shell.start(
        *("records", "import", file, "--tenant", shop.tenant, "--collection", "price")
    )

    async def staged():
        return await books.fetchval(
            "SELECT count(*) FROM tillsync.record_staging WHERE tenant_id = $1", UUID(shop.tenant)
        )

    await eventually(staged, within_seconds=30)
    command.signal(signal.SIGINT)
    ended = await command.ended()

    async def nothing_is_left():
        return await staged() == 0

    await eventually(nothing_is_left)
    assert ended.status == 130
    assert await head_of(books, shop.tenant) == 1


async def test_records_are_deleted_all_at_once(shop, books):
    """Products that are not sold any more go with one command; a typing error deletes none."""
    await shop.take_in(shop.file('{"id":1}\n{"id":2}\n{"id":3}\n'))

    slip = await shop.run("records", "delete", "1", "x" * 201, "--collection", "price")
    gone = await shop.run("records", "delete", "1", "2", "9", "--collection", "price", "--json")

    assert (slip.status, slip.out) == (1, "")
    assert "ID 2: " in slip.err
    assert gone.json == {"deleted": 2, "version": 6}
    assert [await shop.shown(one) for one in "123"] == ["", "", '{"id":3}']


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("records", "show", "9", "--collection", "price"), "(NOT_FOUND)"),
        (
            ("records", "show", "9", "--collection", "prize"),
            "There is no collection 'prize'. (COLLECTION_UNKNOWN) `tillsync-service collections",
        ),
        (("records", "delete", "9", "--collection", "prize"), "`collections define` makes one."),
        (("records", "delete", "9", "--collection", "Price"), "no collection 'Price'."),
        (("records", "delete", "9", "--collection", "price", "--store", str(uuid4())), "NOT_FOUND"),
        (("conflicts", "show", "9"), "(NOT_FOUND)"),
    ],
)
async def test_the_services_reason_is_told(shop, arguments, words):
    """What the service refuses, it explains: its own words arrive, in one line."""
    ended = await shop.run(*arguments)

    assert (ended.status, ended.out) == (1, "")
    assert ended.err.count("\n") == 1
    assert words in ended.err


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"TILLSYNC_OPERATOR_TOKEN": ""}, "$(tillsync-service operator-token)"),
        ({"TILLSYNC_OPERATOR_TOKEN": "abc"}, "$(tillsync-service operator-token)"),
        ({"TILLSYNC_SERVICE_ADDRESS": "127.0.0.1:1"}, "No Tillsync service answers"),
    ],
)
async def test_an_import_without_a_service_is_one_line(shop, settings, words):
    """A token or an address is wrong: the operator reads one line, and knows the next step."""
    shop.shell.settings = settings

    ended = await shop.take_in(shop.file('{"id":1}'))

    assert ended.status == 1
    assert ended.err.count("\n") == 1
    assert words in ended.err


async def test_conflicts_are_listed_shown_and_decided(shop, books):
    """A till's edit waits for a decision: the operator sees both sides, and says that the till was
    right."""
    await shop.take_in(shop.file('{"id":"4711","cents":100}'))
    for number, outcome in ((3, "parked"), (4, "lost")):
        await books.execute(
            "INSERT INTO tillsync.conflict (tenant_id, conflict_id, device_id, epoch, sequence,"
            " collection, scope, record_id, kind, base_version, edit_body, met_version, met_body,"
            " outcome, reason) VALUES ($1, $2, gen_random_uuid(), 1, 1, 'price', $3, '4711',"
            " 'patch', 1, '{\"cents\":90}', 2, '{}', $4, 'It had changed.')",
            UUID(shop.tenant),
            number,
            UUID(int=0),
            outcome,
        )

    every = await shop.run("conflicts", "list")
    waiting = await shop.run("conflicts", "list", "--open", "--json")
    shown = await shop.run("conflicts", "show", "3", "--json")
    decided = await shop.run("conflicts", "resolve", "3", "apply", "--json")
    again = await shop.run("conflicts", "resolve", "3", "keep")
    lost = await shop.run("conflicts", "resolve", "4", "keep")

    assert [(line[0], line[2], line[5], line[6]) for line in every.lines] == [
        ("3", "parked", "4711", "patch"),
        ("4", "lost", "4711", "patch"),
    ]
    assert [conflict["conflict_id"] for conflict in waiting.json] == [3]
    assert shown.json["present_body"] == '{"cents":100,"id":"4711"}'
    assert (shown.json["edit_body"], shown.json["resolution"]) == ('{"cents":90}', "")
    assert (decided.json["resolution"], decided.json["decided_by"]) == ("apply", "test")
    assert await shop.shown("4711") == '{"cents":90,"id":"4711"}'
    assert again.status == 1
    assert "This conflict is decided already. (STATE_FORBIDS)" in again.err
    assert "This edit has lost: only a parked one waits for a decision." in lost.err
    assert json.loads((await shop.run("conflicts", "list", "--open", "--json")).out) == []
