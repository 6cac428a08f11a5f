"""The code base as a reader meets it: files of a readable length, and nobody's machine in them."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

LONGEST = 400
LONGEST_TEST = 600
WRITTEN_BY_HAND = {".py", ".sql", ".proto", ".md", ".toml", ".yaml", ".sh", ".html", ".js"}
NOT_OURS = {"__pycache__", "node_modules", "build", "dist"}
HIDDEN_BUT_OURS = {".ci", ".github"}

# Package indexes and their mirrors belong to whoever installs; paths to whoever wrote them down.
INDEX_HOST = re.compile(
    r"(pypi|pythonhosted|npmjs|deb\.debian|crates|buf\.build/gen)\.(org|io|com|dev)|"
    r"--(extra-)?index-url|--find-links|/simple/"
)
MACHINE_PATH = re.compile(r"(?<![\w.*-])/(root|home/\w+|Users)/")


def files_of_ours(folder: Path = ROOT) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            hidden = path.name.startswith(".") and path.name not in HIDDEN_BUT_OURS
            if not hidden and path.name not in NOT_OURS and path != ROOT / "protos" / "src":
                yield from files_of_ours(path)
        else:
            yield path


def lines_of(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        return []


def test_no_file_is_too_long_to_read_at_once():
    """A reader holds a file in mind: a module past 400 lines has a second one inside it."""
    too_long = [
        f"{path.relative_to(ROOT)}: {length} lines"
        for path in files_of_ours()
        if path.suffix in WRITTEN_BY_HAND
        if (length := len(lines_of(path)))
        > (LONGEST_TEST if path.is_relative_to(ROOT / "tests") else LONGEST)
    ]

    assert too_long == []


@pytest.mark.parametrize(
    "forbidden", [INDEX_HOST, MACHINE_PATH], ids=["index host", "machine path"]
)
def test_no_file_names_somebodys_machine(forbidden):
    """A clone works anywhere: no file names a package index or a path of the machine it was
    written on."""
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in files_of_ours()
        if path != Path(__file__).resolve()
        for number, line in enumerate(lines_of(path), start=1)
        if forbidden.search(line)
    ]

    assert found == []
