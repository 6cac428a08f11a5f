"""What the documents promise about the code is so."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ARCHITECTURE = ROOT / "docs" / "ARCHITECTURE.md"
DECISIONS = ROOT / "docs" / "adr"

INVARIANT = re.compile(r"^\| *\**(I\d+)\** *\|(.*)\|\s*$", re.MULTILINE)
RULE = re.compile(r"^\| ([RPEC]\d+) \|(.*)\|$", re.MULTILINE)
TEST = re.compile(r"(tests/[\w/]+\.py)((?:::\w+)*)")


def invariants() -> dict[str, str]:
    if not ARCHITECTURE.exists():
        pytest.skip("docs/ARCHITECTURE.md is not written yet")
    return dict(INVARIANT.findall(ARCHITECTURE.read_text()))


def names_defined_in(path: Path) -> set[str]:
    definitions = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Name
    return {
        node.id if isinstance(node, ast.Name) else node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, definitions)
    }


def test_the_architecture_lists_every_invariant():
    """An operator can look up what is promised: ARCHITECTURE.md lists I1 to I11, each once."""
    assert sorted(invariants(), key=lambda name: int(name[1:])) == [f"I{n}" for n in range(1, 12)]


def test_a_test_that_guards_an_invariant_exists():
    """A promise is kept by a test that is there: each one named beside an invariant exists."""
    missing = [
        f"{invariant}: {file}{path}"
        for invariant, row in invariants().items()
        for file, path in TEST.findall(row)
        if not (ROOT / file).exists()
        or not set(path.split("::")[1:]) <= names_defined_in(ROOT / file)
    ]

    assert missing == []


@pytest.mark.parametrize(("protocol", "tests"), [("SYNC.md", 30), ("FEED.md", 30)])
def test_a_test_that_holds_a_rule_of_a_protocol_exists(protocol, tests):
    """Whoever writes a device or a reader of another make finds each rule's test: those named in
    SYNC.md and in FEED.md are there."""
    named = TEST.findall((ROOT / "docs" / protocol).read_text())
    missing = [
        f"{file}{path}"
        for file, path in named
        if not (ROOT / file).exists()
        or not set(path.split("::")[1:]) <= names_defined_in(ROOT / file)
    ]

    assert len(named) > tests
    assert missing == []


def test_every_rule_of_sync_names_its_test():
    """A rule that nothing holds is a wish: each row of SYNC.md's tables names a test by its name,
    and no number is given twice."""
    rules = RULE.findall((ROOT / "docs" / "SYNC.md").read_text())

    names = [name for name, _ in rules]
    assert len(names) >= 50
    assert sorted(set(names)) == sorted(names)
    assert [name for name, row in rules if not re.search(r"tests/[\w/]+\.py::\w+", row)] == []


def test_every_decision_is_in_the_index():
    """Whoever wonders why finds the reason: the index links every decision, and nothing else."""
    linked = re.findall(r"\((\d{4}-[\w-]+\.md)\)", (DECISIONS / "README.md").read_text())

    assert linked == sorted(path.name for path in DECISIONS.glob("[0-9]*.md"))
