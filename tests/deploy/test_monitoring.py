"""What wakes people up, and what they look at then."""

import json
import re
import shutil
import subprocess

import pytest

from support.operated import (
    HISTOGRAMS,
    LABEL_VALUES,
    METRICS,
    ROOT,
    parsed,
    read,
    unknown_settings,
)

PROMETHEUS = ROOT / "docker" / "prometheus"
DASHBOARDS = sorted((ROOT / "docker" / "grafana" / "dashboards").glob("*.json"))
ALERTS = [
    rule for group in parsed("docker/prometheus/alerts.yml")["groups"] for rule in group["rules"]
]

# What Prometheus adds itself.
EVERYWHERE = {"instance", "job", "le"}
NOT_NAMES = re.compile(
    r'"[^"]*"|\$\w+|\[[^\]]*\]|\b(?:by|on|without|ignoring)\s*\([^)]*\)|\{[^}]*\}|\w+\s*(?=\()'
)
WORDS = {"unless", "and", "or", "by", "on", "sum", "min", "max", "count", "up"}


def problems_of(expression: str) -> list[str]:
    """The metrics, labels and values of a PromQL expression that are not ours."""
    problems = []
    names = re.findall(r"[a-z_]{2,}", NOT_NAMES.sub(" ", expression))
    for name in set(names) - WORDS:
        base = re.sub(r"_(bucket|count|sum)$", "", name)
        if name not in METRICS and base not in HISTOGRAMS:
            problems.append(f"no metric {name}")
        if name in HISTOGRAMS:
            problems.append(f"{name} is a histogram")
    known = set().union(
        EVERYWHERE,
        *(
            METRICS[re.sub(r"_(bucket|count|sum)$", "", name)]
            for name in names
            if re.sub(r"_(bucket|count|sum)$", "", name) in METRICS
        ),
    )
    used = {
        label.strip()
        for by in re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", expression)
        for label in by.split(",")
    }
    used |= set(re.findall(r"[{,]\s*(\w+)\s*(?==|!)", expression))
    problems += [f"no label {label}" for label in used - known]
    for label, value in re.findall(r'(\w+)\s*!?="([^"$]*)"', expression):
        if label in LABEL_VALUES and value not in LABEL_VALUES[label]:
            problems.append(f"{label} is never {value}")
    return problems


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_asks_for_what_is_measured(rule):
    """An alert that asks for a name nobody writes never comes: each metric, label and value is one
    of the service's."""
    assert problems_of(rule["expr"]) == []
    labels = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
    assert labels <= {*EVERYWHERE, *set().union(*METRICS.values())}
    assert rule["labels"]["severity"] in {"page", "ticket"}


def test_every_alert_says_what_to_do():
    """Whoever is woken up finds the cause and the cure under the alert's own name, and the chapter
    says of no alert what it is not."""
    chapter = read("docs/ALERTS.md")
    sections = dict(re.findall(r"^### (\w+)\n(.*?)(?=^### |\Z)", chapter, re.MULTILINE | re.DOTALL))

    assert list(sections) == [rule["alert"] for rule in ALERTS]
    for rule in ALERTS:
        section = sections[rule["alert"]]
        anchor = rule["alert"].lower()
        assert rule["annotations"]["runbook"] == f"docs/ALERTS.md#{anchor}"
        assert section.startswith(f"*{rule['labels']['severity'].capitalize()}.*")
        assert "**Cause:**" in section
        assert "**Cure:**" in section
    assert unknown_settings(chapter) == set()


def test_every_dashboard_shows_what_is_measured():
    """An operator sees lines and not empty panels: every metric is on one of the three."""
    boards = {path.stem: json.loads(path.read_text()) for path in DASHBOARDS}
    source = parsed("docker/grafana/provisioning/datasources/prometheus.yaml")["datasources"][0]
    shown = ""

    assert set(boards) == {"ingest", "fleet", "projections"}
    for name, board in boards.items():
        assert board["uid"] == f"tillsync-{name}"
        for panel in board["panels"]:
            assert panel["description"]
            for target in panel["targets"]:
                assert target["datasource"]["uid"] == source["uid"]
                assert problems_of(target["expr"]) == [], panel["title"]
                shown += target["expr"] + "\n"
    assert {name for name in METRICS if name not in shown} == set()


def test_a_wrong_expression_is_noticed():
    """The checks above see: a metric, a label, a value and a histogram that is none."""
    assert problems_of('sum by (tenat) (rate(ingest_events_total{verdict="accepted"}[5m]))') == [
        "no label tenat"
    ]
    assert problems_of("rate(ingest_event_total[5m])") == ["no metric ingest_event_total"]
    assert problems_of('ingest_events_total{verdict="refused"}') == ["verdict is never refused"]
    assert problems_of("rpc_duration_seconds > 1") == ["rpc_duration_seconds is a histogram"]


@pytest.mark.parametrize(
    "command",
    [
        ("check", "rules", "alerts.yml"),
        ("check", "config", "prometheus.yml"),
        ("test", "rules", "alerts.test.yml"),
    ],
    ids=" ".join,
)
def test_prometheus_itself_agrees(command):
    """Prometheus takes its files as they are, and an evening on which the database goes away ends
    in the alert that says so."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian, Ubuntu: apt install prometheus)")

    answer = subprocess.run(
        [promtool, *command], cwd=PROMETHEUS, capture_output=True, text=True, check=False
    )

    assert answer.returncode == 0, answer.stdout + answer.stderr
