"""The guards around the contract."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUF = shutil.which("buf", path=str(Path(sys.executable).parent))


@pytest.mark.parametrize(
    ("file", "taken_away"),
    [
        ("event.proto", "string key = 1;"),
        ("ingest_service.proto", "rpc Ingest("),
        ("event.proto", "OUTCOME_DUPLICATE = 2;"),
    ],
)
def test_a_contract_that_released_tills_do_not_understand_is_refused(tmp_path, file, taken_away):
    """A till that nobody can update goes on being understood: taking away a field, an RPC or an
    enum value fails the check."""
    contract = tmp_path / "protos"
    shutil.copytree(ROOT / "protos", contract, ignore=shutil.ignore_patterns("src"))
    proto = contract / "tillsync" / "v1" / file
    text = proto.read_text()
    assert taken_away in text
    proto.write_text(
        "\n".join(line for line in text.splitlines() if not line.strip().startswith(taken_away))
    )

    answer = subprocess.run(
        [BUF, "breaking", "--against", "released.binpb"],
        cwd=contract,
        capture_output=True,
        text=True,
        check=False,
    )

    assert answer.returncode == 100
    assert "was deleted" in answer.stdout or "was removed" in answer.stdout


def test_generated_code_is_what_the_contract_says():
    """What people import is what the .proto files say: generated again, it is the same."""
    answer = subprocess.run(
        [sys.executable, ROOT / "tools" / "protos.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert answer.returncode == 0, answer.stdout + answer.stderr
