"""Records and edits as a person or a shell script at the till meets them."""

import json

import pytest

from support.agentshell import Shell
from support.copies import STORE, a_block, a_checkpoint, a_load
from tillsync.v1.event_pb2 import Refusal
from tillsync.v1.sync_service_pb2 import MutationResult
from tillsync_agent import Replica


@pytest.fixture
def shell(tmp_path):
    return Shell(tmp_path / "state")


@pytest.fixture
def loaded(shell):
    shell.folder.mkdir()
    with Replica.open(shell.folder / "replica.db") as replica:
        replica.checkpoint_cursor()
        blocks = [
            a_block("product", {"p-1": {"barcode": "111", "name": "Käse"}}),
            a_block("product", {"p-2": {"barcode": "222"}}, STORE),
            a_block("stock", {"p-1": {"on_hand": 10}}, STORE),
        ]
        replica.receive(a_load(blocks, keys={"product": ["barcode"]}))
        yield replica


@pytest.mark.usefixtures("loaded")
async def test_records_are_looked_up(shell):
    """A technician asks what the till knows of a product: by its id, by its barcode, and all."""
    code, out, err = await shell("lookup", "product", "p-1")
    assert (code, out, err) == (
        0,
        'p-1  tenant  version 1  {"barcode": "111", "name": "Käse"}\n',
        "",
    )
    code, out, _ = await shell("lookup", "product", "--key", "barcode=222", "--json")
    assert (code, json.loads(out)["record_id"], json.loads(out)["store_id"]) == (0, "p-2", STORE)
    _, out, _ = await shell("lookup", "product", "--prefix", "p-", "--json")
    assert [json.loads(line)["record_id"] for line in out.splitlines()] == ["p-1", "p-2"]


@pytest.mark.usefixtures("loaded")
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("lookup", "product", "nowhere"), 1, "there is no such record"),
        (("lookup", "product", "--key", "barcode=9"), 1, "there is no such record"),
        (("lookup", "produkt", "p-1"), 2, "there is no 'produkt'; there are product, stock"),
        (("lookup", "produkt", "--prefix", ""), 2, "there are product, stock"),
        (("lookup", "product", "--key", "color=red"), 2, "keys of product are: barcode"),
        (("lookup", "stock", "--key", "color=red"), 2, "keys of stock are: none"),
        (("lookup", "product"), 2, "give one of RECORD_ID"),
        (("lookup", "product", "p-1", "--prefix", "p"), 2, "give one of RECORD_ID"),
        (("lookup", "product", "--key", "barcode"), 2, "NAME=VALUE"),
        (("edit", "patch", "product", "nowhere", "{}"), 2, "there is no 'nowhere'"),
        (("edit", "delete", "product", "nowhere"), 2, "there is no 'nowhere'"),
        (("edit", "put", "produkt", "p", "{}"), 2, "there are product, stock"),
        (("edit", "put", "product", "p", "{oops"), 2, "is no JSON"),
        (("edit", "put", "product", "p", "[]"), 2, "fields by name"),
        (("edit", "put", "product", " ", "{}"), 2, "not blank"),
        (("edit", "add", "product", "p-1", '{"barcode": 1}'), 2, "whole numbers"),
    ],
)
async def test_a_wrong_question_or_edit_is_explained(shell, arguments, code, words):
    """Somebody mistypes something: one line says what is wrong, and the exit code of which kind it
    is; nothing is written."""
    said, out, err = await shell(*arguments)

    assert (said, out) == (code, "")
    assert words in err
    assert (await shell("edits"))[1] == "no edits\n"


async def test_edits_are_made_and_listed(shell, loaded):
    """The shopkeeper counts stock and corrects records from a shell; the list says which of it head
    office has taken, and status what was refused."""
    code, out, err = await shell("edit", "add", "stock", "p-1", '{"on_hand": -2}')
    assert (code, err, json.loads(out)) == (0, "", {"sequence": 1})
    await shell("edit", "put", "product", "p-3", '{"barcode": "333"}', "--scope", "tenant")
    await shell("edit", "patch", "product", "p-1", '{"name": null}')
    await shell("edit", "delete", "product", "p-2")

    assert "edited here" in (await shell("lookup", "stock", "p-1"))[1]
    refusal = Refusal(reason="RECORD_NOT_STORABLE", field="body", description="No.")
    loaded.edits_to_push(10)
    loaded.answered(
        [
            MutationResult(sequence=1, outcome="MUTATION_OUTCOME_APPLIED"),
            MutationResult(sequence=2, outcome="MUTATION_OUTCOME_REJECTED", refusal=refusal),
        ],
        3,
    )

    code, out, _ = await shell("edits")
    assert (code, out.splitlines()) == (
        0,
        [
            f'#1  applied  add  stock p-1 of {STORE}  {{"on_hand": -2}}',
            '#2  rejected  put  product p-3 of tenant  {"barcode": "333"}  RECORD_NOT_STORABLE No.',
            '#3  waiting  patch  product p-1 of tenant  {"name": null}',
            f"#4  waiting  delete  product p-2 of {STORE}",
        ],
    )
    told = [json.loads(line) for line in (await shell("edits", "--json"))[1].splitlines()]
    assert [(it["kind"], it["outcome"], it["shown"]) for it in told] == [
        ("add", "applied", 1),
        ("put", "rejected", 1),
        ("patch", "waiting", 1),
        ("delete", "waiting", 1),
    ]
    await shell("record", given=b'{"receiptNumber": "1"}')
    code, out, _ = await shell("status")
    assert "edits              2 wait, 4 over the copy" in out
    assert "1 edits of records were refused by head office" in out
    assert code == 1


async def test_a_parked_edit_says_where_it_is_decided(shell, loaded):
    """Two edits collided, and one of them waits for head office's decision, which no till is told
    of: status counts it by itself and says where to look, and the help what the word means."""
    await shell("record", given=b'{"receiptNumber": "1"}')
    for _ in range(2):
        loaded.patch("product", "p-1", {"name": "Brie"})
    loaded.edits_to_push(10)
    outcomes = ("MUTATION_OUTCOME_LOST", "MUTATION_OUTCOME_PARKED")
    loaded.answered([MutationResult(sequence=n, outcome=o) for n, o in enumerate(outcomes, 1)], 3)

    _, told, _ = await shell("status")
    counted = json.loads((await shell("status", "--json"))[1])["replica"]
    _, helped, _ = await shell("edits", "--help")

    assert "edits that lost    1\n" in told
    assert "edits parked       1; decided or not: `tillsync-service conflicts list`" in told
    assert (counted["edits_lost"], counted["edits_parked"]) == (1, 1)
    assert "`tillsync-service conflicts list` there" in helped


async def test_a_question_creates_no_replica(shell):
    """Somebody asks in the wrong folder: they are told so, and no empty copy is left there."""
    for command in (("lookup", "product", "p"), ("edits",)):
        code, _, err = await shell(*command)

        assert code == 3
        assert "--state-dir" in err
    assert not (shell.folder / "replica.db").exists()


async def test_status_tells_how_the_copy_stands(shell, loaded):
    """The shopkeeper asks how the till is: what the copy holds, and of when."""
    await shell("record", given=b'{"receiptNumber": "1"}')
    _, out, _ = await shell("status")
    assert "records            2 product, 1 stock" in out
    assert "copy               version 3, 20" in out
    assert "copy loaded        1 times, healed 0 times" in out

    loaded.receive(a_checkpoint(4, digests={("product", ""): {"p-9": {"lost": "on the way"}}}))
    _, out, _ = await shell("status", "--json")
    assert json.loads(out)["replica"]["heals"] == 1


async def test_status_without_a_replica_is_as_before(shell):
    """A till that only records has nothing to say about records."""
    await shell("record", given=b'{"receiptNumber": "1"}')

    _, out, _ = await shell("status", "--json")

    assert json.loads(out)["replica"] is None
    assert not (shell.folder / "replica.db").exists()


async def test_a_replica_that_went_bad_needs_a_person(shell, loaded):
    """Lightning destroys the till's copy: status names the file until somebody has moved it, and
    the copy is to be loaded anew."""
    await shell("record", given=b'{"receiptNumber": "1"}')
    loaded.close()
    (shell.folder / "replica.db").write_bytes(b"\xa5" * 10_000)

    _, out, _ = await shell("status", "--json")

    told = json.loads(out)
    (aside,) = told["replica"]["set_aside"]
    assert any(aside in problem for problem in told["problems"])
    assert "never loaded" in (await shell("status"))[1]
