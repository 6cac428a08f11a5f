"""The workflows: pinned, with few rights, and in words that our programs understand."""

import re

import pytest
import yaml

from support.commandlines import said_in_shell, said_in_yaml
from support.operated import ROOT, read, unknown_settings

FOLDER = ROOT / ".github" / "workflows"
WORKFLOWS = {path.name: yaml.safe_load(path.read_text()) for path in sorted(FOLDER.glob("*.yml"))}
JOBS = {
    f"{name}: {job}": parts
    for name, workflow in WORKFLOWS.items()
    for job, parts in workflow["jobs"].items()
}
STEPS = {
    f"{job}, step {number}": step
    for job, parts in JOBS.items()
    for number, step in enumerate(parts.get("steps", []), start=1)
}
# Whoever may only read cannot change what others run; these two publish.
MAY_WRITE = {"release.yml: images": {"packages"}, "release.yml: publish": {"contents"}}
SAFE_IN_SHELL = re.compile(r"\$\{\{\s*(runner|matrix)\.[\w.]+\s*\}\}")
COMMANDS_OF_MAKE = set(re.findall(r"^([a-z]+):", read("Makefile"), re.MULTILINE))


@pytest.mark.parametrize("job", JOBS)
def test_a_job_may_do_little_and_ends(job):
    """Who takes over a step gets nothing by it: rights are to read, but for what publishes, and no
    job runs for hours."""
    parts = JOBS[job]
    workflow = WORKFLOWS[job.partition(":")[0]]
    writes = {name for name, right in parts.get("permissions", {}).items() if right == "write"}

    assert workflow["permissions"] == {"contents": "read"}
    assert writes == MAY_WRITE.get(job, set())
    assert "uses" in parts or parts["timeout-minutes"] <= 90
    assert "uses" in parts or not parts["runs-on"].endswith("-latest")


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_an_action_is_pinned_to_a_commit(workflow):
    """A tag that somebody moves changes nothing here: each action is a commit, its version beside
    it, and the same everywhere."""
    uses = re.findall(r"uses: (\S+)(.*)", read(f".github/workflows/{workflow}"))

    for action, comment in uses:
        if action.startswith("./"):
            assert (ROOT / action).exists()
        else:
            assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", action)
            assert re.fullmatch(r" # v\d+\.\d+\.\d+", comment)


def test_an_action_has_one_version():
    """Two workflows that check out the sources do it with the same program."""
    everything = "\n".join(read(f".github/workflows/{name}") for name in WORKFLOWS)
    pins = set(re.findall(r"uses: ([\w/-]+)@(\w+ # \S+)", everything))

    assert pins
    assert len(pins) == len(dict(pins))


@pytest.mark.parametrize("step", [name for name, step in STEPS.items() if "run" in step])
def test_a_step_runs_what_there_is(step):
    """A release does not end at a slip: our commands and their options exist, make knows its
    words, scripts are there, and no input is pasted into a shell."""
    run = STEPS[step]["run"]

    assert [said.trouble for said in said_in_shell(run) if said.trouble] == []
    assert unknown_settings(str(STEPS[step])) == set()
    assert "${{" not in SAFE_IN_SHELL.sub("", run)
    words = {
        word
        for line in re.findall(r"\bmake ([a-z. /-]+)$", run, re.MULTILINE)
        for word in line.split()
    }
    assert {word for word in words if not word.startswith(".venv/")} <= COMMANDS_OF_MAKE
    named = re.findall(
        r"(?<![\w$/-])((?:\.ci|deploy|docker|tests|tools|requirements)/[\w./*-]+)", run
    )
    assert [path for path in named if not list(ROOT.glob(path))] == []


def test_the_gates_that_production_passes_are_all_asked():
    """No version is relied on before it was tried: migrations, health, smoke, a load test with its
    limits, and the metrics."""
    asked = {
        said.argv[1:3]
        for name in ("gates.yml", "rehearsal.yml")
        for said in said_in_yaml(WORKFLOWS[name])
    }
    script = read("deploy/gates.sh")
    gates = [said.argv[1] for said in said_in_shell(script)]

    assert ("migrate", "status") in asked
    assert gates == ["health", "smoke", "loadtest"]
    assert [said.trouble for said in said_in_shell(script) if said.trouble] == []
    needed = set(re.findall(r"\$\{(\w+):\?\}", script))
    for name in ("gates.yml", "rehearsal.yml"):
        (step,) = [
            step
            for key, step in STEPS.items()
            if key.startswith(name) and step.get("name") == "Gates"
        ]
        assert needed <= set(step["env"])


def test_a_deployment_reads_what_the_migration_says():
    """Going back depends on whether the schema moved: the words that are looked for are those that
    the commands say."""
    commands = read("service/src/tillsync_service/host_commands.py")
    deploy = read(".github/workflows/deploy.yml")

    assert "s/^current: //p" in deploy
    assert 'f"current: {' in commands
    assert r"s/^The database is at migration \([^;]*\);.*/\1/p" in deploy
    assert 'f"The database is at migration {after.current}; ' in commands
