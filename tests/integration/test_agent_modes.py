"""Who may read what a till keeps on its disk."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from support.agentshell import Shell, program_of
from support.operators import reachable_folder
from support.scripted_service import ScriptedService
from support.till import Till, until
from tillsync_agent.files import write_private
from tillsync_agent.gateway import Gateway

if sys.platform == "win32":
    pytest.skip("Windows has no modes", allow_module_level=True)

SALE = b'{"receiptNumber": "1"}'
SECRETS = {"refresh-secret.json", "gateway.token"}
SALES = {"outbox.db", "outbox.db-wal", "outbox.db-shm"}
RECORDS = {"replica.db", "replica.db-wal", "replica.db-shm", "replica.db.setup-lock"}
OTHERS = {"agent.json", "outbox.db.setup-lock", "outbox.db.agent-lock", *RECORDS}
GROUP, POS, AGENT, STRANGER = 54_320, 54_321, 54_322, 54_323


@pytest.fixture(params=[0o000, 0o077], ids=["umask 000", "umask 077"])
def any_umask(request):
    """The two extremes of what an account may be set to."""
    before = os.umask(request.param)
    yield
    os.umask(before)


def modes_in(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


async def modes_of_a_till(folder: Path) -> dict[str, int]:
    """The modes of all its files while it sells, with a secret that has just been rotated."""
    async with ScriptedService() as service:
        till = Till(folder, service, gateway_port=0)
        till.settings.secret_path.write_text(f'{{"current": "{(b"s" * 32).hex()}"}}')
        gateway = Gateway(till.outbox, till.settings.gateway_token_path)
        async with till.agent():
            await gateway.start(0)
            till.record()
            await until(lambda: till.waiting == 0)
            modes = modes_in(folder)
        await gateway.stop()
        till.close()
    assert service.proposals != []
    return modes


@pytest.mark.usefixtures("any_umask")
async def test_nobody_else_reads_a_tills_files(tmp_path):
    """Another account of the shopkeeper's machine looks around: it reads no sale and no secret,
    however careless the umask is."""
    assert await modes_of_a_till(tmp_path / "state") == dict.fromkeys(
        SECRETS | SALES | OTHERS, 0o600
    )


@pytest.mark.usefixtures("any_umask")
async def test_a_folder_for_a_group_shares_the_sales_and_no_secret(tmp_path):
    """The shopkeeper's till program and the agent are two accounts of one group, and the folder is
    the group's: both write the outbox, whatever their umask is; the secrets stay the agent's."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state").chmod(0o2770)

    assert await modes_of_a_till(tmp_path / "state") == {
        **dict.fromkeys(SECRETS, 0o600),
        **dict.fromkeys(SALES | OTHERS, 0o660),
    }


@pytest.mark.parametrize("mode", [0o770, 0o2750])
async def test_half_a_permission_shares_nothing(tmp_path, mode):
    """The folder is writable for a group by a common umask, or setgid and not writable: nobody
    meant to share the shopkeeper's sales, and they are not shared."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state").chmod(mode)

    assert set((await modes_of_a_till(tmp_path / "state")).values()) == {0o600}


def test_a_secret_is_not_written_into_a_file_that_another_account_put_there(tmp_path):
    """Somebody of the group lays out a file under the name that the secret is about to be written
    under, and holds it open: the shopkeeper's secret does not get into it."""
    bait = tmp_path / "refresh-secret.json.new"
    with bait.open("w+b") as held_open:
        write_private(tmp_path / "refresh-secret.json", b"secret")

        assert held_open.read() == b""

    assert (tmp_path / "refresh-secret.json").read_bytes() == b"secret"
    assert stat.S_IMODE((tmp_path / "refresh-secret.json").stat().st_mode) == 0o600


def test_many_power_cuts_leave_no_heap_of_secrets(tmp_path):
    """The shopkeeper's till is switched off while it writes a secret, again and again: what is left
    is the secret that was, and one unfinished file that the next writing clears away."""
    path = tmp_path / "refresh-secret.json"
    write_private(path, b"first")
    program = (
        "import os, signal, sys; from pathlib import Path; from tillsync_agent import files;"
        "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL);"
        "files.write_private(Path(sys.argv[1]), b'second')"
    )
    for _ in range(3):
        assert subprocess.run([sys.executable, "-c", program, path], check=False).returncode == -9

    assert path.read_bytes() == b"first"
    assert len(list(tmp_path.iterdir())) == 2
    write_private(path, b"third")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="needs root, to be two accounts")
async def test_two_accounts_share_an_outbox_and_a_third_reads_nothing():
    """The shopkeeper's till program records as one account and the agent sends as another: every
    sale arrives, either one may ask for the state, and somebody else learns nothing."""
    with reachable_folder() as parent:
        folder = parent / "state"
        folder.mkdir()
        os.chown(folder, 0, GROUP)
        folder.chmod(0o2770)
        pos, agent, stranger = (
            Shell(folder, program_of(user, group))
            for user, group in ((POS, GROUP), (AGENT, GROUP), (STRANGER, STRANGER))
        )
        async with ScriptedService() as service:
            for shell, *words in (
                (pos, "record"),
                (agent, "enroll", "--service", service.address, "--code", "A", "--name", "till 3"),
                (agent, "drain"),
                (pos, "record"),
                (agent, "drain"),
                (pos, "status"),
                (agent, "record"),
            ):
                code, _, err = await shell(*words, given=SALE)
                assert code == 0, (words, err)
            code, out, err = await stranger("status")

        assert len(service.stored) == 2
        assert (code, out) == (2, "")
        assert str(folder) in err
