"""The locked requirements: complete, by hash, from any index."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))

PIN = re.compile(r"^(?P<name>[a-z0-9-]+)==(?P<version>\S+)( ; .+)? \\$")
HASH = re.compile(r"^    --hash=sha256:[0-9a-f]{64}( \\)?$")


def pins_of(name: str) -> dict[str, str]:
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    return {pin["name"]: pin["version"] for line in text.splitlines() if (pin := PIN.match(line))}


def project_of(folder: str) -> dict:
    return tomllib.loads((ROOT / folder / "pyproject.toml").read_text())


def needs_of(folder: str, *, everything: bool) -> list[Requirement]:
    described = project_of(folder)
    needs = list(described["project"]["dependencies"])
    if everything:
        needs += described["build-system"]["requires"]
        for extra in described["project"].get("optional-dependencies", {}).values():
            needs += extra
    return [Requirement(need) for need in needs]


OWN = {
    project_of(folder)["project"]["name"]: project_of(folder)["project"]["version"]
    for folder in ("protos", "client", "service")
}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_a_lock_holds_exact_versions_with_hashes_and_nothing_else(lock):
    """Nobody installs what was not locked: each line is an exact version or one of its hashes, and
    none is an option or an address."""
    lines = lock.read_text().splitlines()

    assert [line for line in lines if not PIN.match(line) and not HASH.match(line)] == []
    assert [
        line
        for line, following in zip(lines, [*lines[1:], ""], strict=True)
        if PIN.match(line) and not HASH.match(following)
    ] == []


@pytest.mark.parametrize(
    ("folder", "lock", "everything"),
    [
        ("protos", "runtime-agent", False),
        ("client", "runtime-agent", False),
        ("protos", "runtime-service", False),
        ("service", "runtime-service", False),
        ("protos", "dev", True),
        ("client", "dev", True),
        ("service", "dev", True),
    ],
)
def test_what_a_distribution_declares_is_locked(folder, lock, everything):
    """An install by hash is complete: every declared dependency is locked, in a version that the
    declaration allows."""
    locked = pins_of(lock) | OWN

    for need in needs_of(folder, everything=everything):
        name = canonicalize_name(need.name)
        assert name in locked, f"{need} is not in {lock}.txt: run `make lock`"
        assert need.specifier.contains(locked[name]), f"{lock}.txt has {name} {locked[name]}"


@pytest.mark.parametrize("lock", ["runtime-agent", "runtime-service"])
def test_containers_run_what_was_tested(lock):
    """What runs in a container is what the tests ran with: each version is the one of dev.txt."""
    assert pins_of(lock).items() <= pins_of("dev").items()
