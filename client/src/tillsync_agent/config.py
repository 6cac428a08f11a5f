"""The agent's settings: one frozen object, read once.

Each setting is looked for in this order: what the caller or the command line gives, the environment
variable TILLSYNC_AGENT_<NAME>, the file agent.json in the state folder (written by `enroll`), the
default below. A name that is not a setting is refused wherever it stands: a misspelt limit that is
silently ignored is found out on the day it was needed.
"""

import difflib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from tillsync_agent.errors import SettingInvalid
from tillsync_agent.files import default_path, unusable, write_shared

ENV_PREFIX = "TILLSYNC_AGENT_"
_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"0", "false", "no", "off", ""}


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything an agent is told. Durations and sizes carry their unit in the name."""

    state_dir: Path
    # Where head office is, "sync.example.com:443". Empty: not enrolled yet.
    service: str = ""
    # A PEM file with the certificate authority to trust instead of the public ones.
    ca_file: str = ""
    # Talk without TLS to an address that is not this machine.
    plaintext: bool = False
    device_id: str = ""
    device_name: str = ""
    store_id: str = ""
    store_name: str = ""
    tenant_id: str = ""
    # The port of the gateway on 127.0.0.1 for programs in other languages. 0: no gateway.
    gateway_port: int = 0
    batch_events: int = 500
    batch_bytes: int = 1_000_000
    # How long a batch may stay unanswered. Longer than the keepalive, which notices a dead link.
    batch_timeout_seconds: float = 60.0
    max_wait_seconds: float = 60.0
    idle_poll_seconds: float = 0.5
    # How long acknowledgements may stay out, with work waiting, before status calls it stalled.
    stalled_after_seconds: float = 300.0
    keep_settled_days: float = 14.0
    max_settled_bytes: int = 256 * 1024 * 1024

    @property
    def outbox_path(self) -> Path:
        return self.state_dir / "outbox.db"

    @property
    def replica_path(self) -> Path:
        return self.state_dir / "replica.db"

    @property
    def secret_path(self) -> Path:
        return self.state_dir / "refresh-secret.json"

    @property
    def gateway_token_path(self) -> Path:
        return self.state_dir / "gateway.token"


_RANGES: Mapping[str, tuple[float, float]] = {
    "gateway_port": (0, 65_535),
    "batch_events": (1, 1_000),
    "batch_bytes": (1_000, 3_000_000),
    "batch_timeout_seconds": (0.1, 3_600),
    "max_wait_seconds": (0.1, 3_600),
    "idle_poll_seconds": (0.01, 60),
    "stalled_after_seconds": (1, 7 * 86_400),
    "keep_settled_days": (0, 3_650),
    "max_settled_bytes": (0, 2**50),
}
_DEFAULTS: dict[str, Any] = {f.name: f.default for f in fields(Settings) if f.name != "state_dir"}


def load(
    state_dir: Path | str | None = None,
    environ: Mapping[str, str] | None = None,
    **given: object,
) -> Settings:
    """The settings from all their places; `given` values that are None count as not given."""
    environ = os.environ if environ is None else environ
    folder = state_folder(state_dir, environ)
    values = _from_file(folder / "agent.json") | _from_environment(environ)
    values |= {name: (value, name) for name, value in given.items() if value is not None}
    return Settings(folder, **{n: _checked(n, v, where) for n, (v, where) in values.items()})


def save(settings: Settings) -> None:
    """Writes agent.json: the identity, and every setting that differs from its default."""
    values = {name: getattr(settings, name) for name in _DEFAULTS}
    changed = {name: value for name, value in values.items() if value != _DEFAULTS[name]}
    write_shared(settings.state_dir / "agent.json", json.dumps(changed, indent=2).encode())


def state_folder(given: Path | str | None, environ: Mapping[str, str] | None = None) -> Path:
    """Where an agent keeps its state: as it was told, or its place in this user's data folder."""
    environ = os.environ if environ is None else environ
    return Path(given or environ.get(f"{ENV_PREFIX}STATE_DIR") or default_path().parent)


def _from_file(path: Path) -> dict[str, tuple[object, str]]:
    try:
        held = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise SettingInvalid(unusable(path.parent, error)) from None
    except ValueError as error:
        raise SettingInvalid(f"{path} cannot be read: {error}") from None
    if not isinstance(held, dict):
        raise SettingInvalid(f"{path} must hold one JSON object")
    return {str(name): (value, f"{name} in {path}") for name, value in held.items()}


def _from_environment(environ: Mapping[str, str]) -> dict[str, tuple[object, str]]:
    mine = (name for name in environ if name.startswith(ENV_PREFIX))
    return {
        name.removeprefix(ENV_PREFIX).lower(): (environ[name], name)
        for name in mine
        if name != f"{ENV_PREFIX}STATE_DIR"
    }


def _checked(name: str, value: object, where: str) -> Any:
    default = _DEFAULTS.get(name)
    if default is None:
        near = difflib.get_close_matches(name, _DEFAULTS, n=1)
        from_environment = where.startswith(ENV_PREFIX)
        meant = [f"{ENV_PREFIX}{n.upper()}" if from_environment else n for n in near]
        hint = f"; did you mean {meant[0]}?" if meant else ""
        raise SettingInvalid(f"{where} is not a setting of tillsync-agent{hint}")
    try:
        kind: Callable[[object], Any] = type(default)
        converted = _to_bool(value) if isinstance(default, bool) else kind(value)
    except (TypeError, ValueError):
        wanted = type(default).__name__
        raise SettingInvalid(f"{where} must be a {wanted}, not {value!r}") from None
    low, high = _RANGES.get(name, (None, None))
    if low is not None and high is not None and not low <= converted <= high:
        raise SettingInvalid(f"{where} must lie between {low:g} and {high:g}, not {value!r}")
    return converted


def _to_bool(value: object) -> bool:
    word = str(value).strip().lower()
    if word not in _TRUE | _FALSE:
        raise ValueError(word)
    return word in _TRUE
