"""Writes .env.example: every setting there is, from where each is defined.

Run it in the virtualenv:

    python tools/env_example.py            writes .env.example
    python tools/env_example.py --check    says whether it is current, changes nothing
"""

import argparse
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path

from tillsync_agent import config as agent
from tillsync_service import config as service

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / ".env.example"
SHAPES = sorted((ROOT / "docker").glob("compose*.yaml"))

HEAD = """\
# Every setting, as an environment variable, with its default. Copy it to .env, which no commit
# takes, and take the # away before what you change. Written by `make gen` from the settings
# themselves; `tillsync-service settings` prints the service's.
"""
CLIENT = {
    "service_address": "Which service an operator's commands talk to, HOST:PORT.",
    "operator_token": "Who gives them their right: `tillsync-service operator-token` prints one.",
    "ca_file": "PEM of your own certificate authority, for these commands.",
}

REQUIRED = re.compile(r"\$\{(\w+):\?([^}]+)\}")
COMMENTED = re.compile(r"((?:^    # .*\n)*)^    (\w+): [\w| ]+( = .*)?$", re.MULTILINE)


def main() -> int:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--check", action="store_true", help="compare only")
    fresh = "\n".join([HEAD, *_service(), *_client(), *_agent(), *_compose()])
    if not words.parse_args().check:
        EXAMPLE.write_text(fresh, encoding="utf-8")
        return 0
    if EXAMPLE.exists() and EXAMPLE.read_text(encoding="utf-8") == fresh:
        return 0
    print(".env.example is not what the settings say: run `make gen`")
    return 1


def _service() -> Iterator[str]:
    yield _title("The service")
    for name, field in service.Settings.model_fields.items():
        yield _setting(service.PREFIX + name, field.default, field.description or "")


def _client() -> Iterator[str]:
    yield _title("The operator's commands")
    for name in service.CLIENT_SETTINGS:
        yield _setting(service.PREFIX + name, None, CLIENT[name])


def _agent() -> Iterator[str]:
    yield _title("The agent; `enroll` writes what it needs beside the outbox")
    said = _comments(inspect.getsource(agent.Settings))
    said["state_dir"] = "Where outbox and identity are kept. Unset: the user's data folder."
    for field in fields(agent.Settings):
        default = None if field.default is MISSING else field.default
        yield _setting(agent.ENV_PREFIX + field.name, default, said.get(field.name, ""))


def _compose() -> Iterator[str]:
    yield _title("What docker/compose.*.yaml ask for; they start with nothing missing")
    asked: dict[str, tuple[str, set[str]]] = {}
    for path in SHAPES:
        for name, message in REQUIRED.findall(path.read_text(encoding="utf-8")):
            words, files = asked.setdefault(name, (message, set()))
            files.add(path.name)
            asked[name] = (message if words.startswith("see ") else words, files)
    for name, (message, files) in sorted(asked.items()):
        where = "" if "compose.yaml" in files else f" ({', '.join(sorted(files))})"
        yield _comment(message[0].upper() + message[1:] + "." + where) + f"{name}=\n"


def _comments(source: str) -> dict[str, str]:
    """What the comments above a class's fields say."""
    return {
        name: " ".join(line.strip().removeprefix("# ") for line in comment.splitlines())
        for comment, name, _ in COMMENTED.findall(source)
    }


def _title(text: str) -> str:
    return f"# --- {text} ---\n"


def _setting(name: str, default: object, text: str) -> str:
    shown = "" if default is None else str(default)
    shown = shown.lower() if isinstance(default, bool) else shown
    return _comment(text) + f"#{name.upper()}={shown}\n"


def _comment(text: str) -> str:
    return "".join(f"# {line}\n" for line in textwrap.wrap(text, 97))


if __name__ == "__main__":
    sys.exit(main())
