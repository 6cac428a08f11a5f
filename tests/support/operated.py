"""What is deployed, read from its files, and the names that it may use."""

import re
from pathlib import Path

import yaml

from tillsync_agent import config as agent_config
from tillsync_service import config
from tillsync_service.rooms import SERVICES

ROOT = Path(__file__).resolve().parents[2]

GRPC_PORT, HTTP_PORT = 7070, 7071

# The names of what is being built. Each set is to be read from the code as soon as it is there:
# METRICS from foundation/metrics (the instruments), HEALTH from foundation/health, HTTP_PATHS from
# the HTTP server, COMING from nothing: by then they are in config.Settings.
METRICS = {
    "build_info": {"version", "migration"},
    "ingest_events_total": {"tenant", "source", "verdict"},
    "ingest_dedup_total": {"tenant", "source"},
    "group_commit_batch_size": set(),
    "group_commit_waiting_events": set(),
    "db_query_duration_seconds": {"statement"},
    "db_pool_connections": {"pool", "state"},
    "rpc_duration_seconds": {"method", "code"},
    "rpc_inside": {"method"},
    "store_oldest_unacknowledged_seconds": {"tenant", "store"},
    "live_pulls": set(),
    "feed_consumer_lag_events": {"tenant", "consumer"},
    "feed_streams": set(),
    "projection_lag_events": {"tenant"},
    "projection_events_total": {"tenant", "outcome"},
    "dead_letters_waiting": {"tenant"},
    "ready": set(),
}
HISTOGRAMS = {"group_commit_batch_size", "db_query_duration_seconds", "rpc_duration_seconds"}
LABEL_VALUES = {
    "source": {"call", "stream", "file"},
    "verdict": {"accepted", "duplicate", "conflict", "rejected"},
    "state": {"open", "idle"},
    "outcome": {"projected", "skipped", "dead"},
}
HEALTH = {"", "startup", "liveness", "readiness", *SERVICES}
HTTP_PATHS = {"/startupz", "/livez", "/readyz", "/metrics", "/healthz", "/health/ready"}
COMING = {
    "http_listen",
    "otlp_endpoint",
    "trace_ratio",
    "ready_timeout_seconds",
    "drain_notice_seconds",
    "projection_workers",
}

SETTINGS = {
    f"{config.PREFIX}{name.upper()}"
    for name in (*config.Settings.model_fields, *config.CLIENT_SETTINGS, *COMING)
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
    """The settings of a service with this environment, those that are still to come left out.
    Raises SettingsError, as the service itself."""
    known = {
        name: str(value)
        for name, value in environment.items()
        if name.startswith(config.PREFIX)
        and name.removeprefix(config.PREFIX).lower()
        not in COMING - set(config.Settings.model_fields)
    }
    config._refuse_misspelt(known)
    return config.Settings(
        **{name.removeprefix(config.PREFIX).lower(): value for name, value in known.items()}
    )
