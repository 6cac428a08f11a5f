"""What is deployed, read from its files, and the names that it may use."""

import re
from pathlib import Path

import yaml
from prometheus_client import CollectorRegistry

from tillsync_agent import config as agent_config
from tillsync_service import config, web
from tillsync_service.health import LIVENESS, READINESS, STARTUP
from tillsync_service.rooms import SERVICES

ROOT = Path(__file__).resolve().parents[2]

GRPC_PORT, HTTP_PORT = 7070, 7071

HEALTH = {"", STARTUP, LIVENESS, READINESS, *SERVICES}
HTTP_PATHS = {route.path for route in web.application(web.Probes(), CollectorRegistry()).routes}

SETTINGS = {
    f"{config.PREFIX}{name.upper()}"
    for name in (*config.Settings.model_fields, *config.CLIENT_SETTINGS)
}
AGENT_SETTINGS = {
    f"{agent_config.ENV_PREFIX}{name.upper()}"
    for name in agent_config.Settings.__dataclass_fields__
}
_NAMED = re.compile(r"\bTILLSYNC_[A-Z_]*[A-Z]\b")

# An image that says which version of it is meant.
PINNED_IMAGE = re.compile(r"^[\w./-]+:v?\d[\w.-]*$")


def unknown_settings(text: str) -> set[str]:
    """The variables TILLSYNC_… in a text that neither program has."""
    return {
        name
        for name in _NAMED.findall(text)
        if name not in SETTINGS | AGENT_SETTINGS and not name.startswith("TILLSYNC_TEST_")
    }


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def metrics_in(handbook: str) -> dict[str, tuple[str, set[str]]]:
    """The handbook's table of metrics: kind and labels by name."""
    rows = re.findall(
        r"^\| `(\w+)` \| (counter|gauge|histogram) \| ([^|]*)\|", handbook, re.MULTILINE
    )
    return {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}


# Held against a live service by tests/integration/test_handbook.py, as the labels' values are.
_METRICS = metrics_in(read("docs/OPERATIONS.md"))
METRICS = {name: labels for name, (_, labels) in _METRICS.items()}
HISTOGRAMS = {name for name, (kind, _) in _METRICS.items() if kind == "histogram"}
LABEL_VALUES = {
    "source": {"call", "stream"},
    "verdict": {"accepted", "duplicate", "conflict", "rejected"},
    "state": {"busy", "idle", "unopened"},
    "outcome": {"projected", "skipped", "dead"},
}


def parsed(path: str):
    """The one document of a YAML file."""
    return yaml.safe_load(read(path))


def environment_of(dockerfile: str) -> dict[str, str]:
    """What an image's ENV sets."""
    joined = re.sub(r"\\\n\s*", " ", read(dockerfile))
    return dict(
        pair.split("=", 1)
        for line in re.findall(r"^ENV (.*)$", joined, re.MULTILINE)
        for pair in line.split()
    )


def settings_from(environment: dict[str, str]) -> config.Settings:
    """The settings of a service with this environment. Raises SettingsError, as the service."""
    known = {
        name: str(value) for name, value in environment.items() if name.startswith(config.PREFIX)
    }
    config._refuse_misspelt(known)
    return config.Settings(
        **{name.removeprefix(config.PREFIX).lower(): value for name, value in known.items()}
    )
