"""The images: what they run exists, as nobody in particular, and says how it is."""

import re

import pytest

from support.commandlines import said_in_dockerfile
from support.operated import (
    GRPC_PORT,
    HEALTH,
    HTTP_PORT,
    PINNED_IMAGE,
    ROOT,
    environment_of,
    read,
    unknown_settings,
)

IMAGES = ["docker/service.Dockerfile", "docker/agent.Dockerfile"]


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_runs_what_there_is_as_nobody_in_particular(image):
    """A container starts with commands and settings that exist, and with no right over its host."""
    text = read(image)
    last_stage = text.rpartition("\nFROM ")[2]

    assert [said.trouble for said in said_in_dockerfile(text) if said.trouble] == []
    assert len(list(said_in_dockerfile(text))) == 2
    assert unknown_settings(text) == set()
    assert re.search(r"^USER \d+$", last_stage, re.MULTILINE)
    assert "useradd --system --no-create-home --uid 10001" in last_stage


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_is_built_from_what_is_pinned_and_there(image):
    """The same sources make the same image: the base has a version, each package a hash, and what
    is copied is in the repository."""
    text = read(image)
    installs = re.findall(r"pip install (.*)", text)

    assert all(PINNED_IMAGE.match(base) for base in re.findall(r"^FROM (\S+)", text, re.MULTILINE))
    assert all("--require-hashes" in line or "--no-deps" in line for line in installs)
    copied = re.findall(r"^COPY (?!--from)(\S+) ", text, re.MULTILINE)
    assert copied
    assert [path for path in copied if not (ROOT / path).exists()] == []


def test_the_services_image_listens_where_it_says():
    """Whoever publishes a port reaches what listens there; its check asks a health service that
    there is, and does not restart it for a database that is away."""
    text = read("docker/service.Dockerfile")
    environment = environment_of("docker/service.Dockerfile")
    (asked,) = re.findall(r'"health", "(\w+)"', text)

    assert f"EXPOSE {GRPC_PORT} {HTTP_PORT}" in text
    assert environment["TILLSYNC_LISTEN"] == f"0.0.0.0:{GRPC_PORT}"
    assert environment["TILLSYNC_HTTP_LISTEN"] == f"0.0.0.0:{HTTP_PORT}"
    assert asked in HEALTH
    assert asked == "liveness"
