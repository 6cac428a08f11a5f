"""What the handbook names is what there is: metrics, paths, names of probes, log lines."""

import re

from google.protobuf.any_pb2 import Any

from support.builders import an_event
from support.feed import Reader
from support.operated import (
    HEALTH,
    HTTP_PATHS,
    LABEL_VALUES,
    METRICS,
    ROOT,
    metrics_in,
    read,
    unknown_settings,
)
from support.polling import eventually
from support.service import Caller
from support.web import scraped
from tillsync.v1.sync_service_pb2 import PullRequest
from tillsync.v1.sync_service_pb2_grpc import SyncServiceStub
from tillsync_service import logs
from tillsync_service.app import App
from tillsync_service.databases import token_issuer
from tillsync_service.foundation import limits
from tillsync_service.rooms import SERVICES

HANDBOOK = read("docs/OPERATIONS.md")
ADDED = {"le", "quantile"}  # by Prometheus, to a histogram


async def test_the_handbook_names_every_metric_and_no_other(settings, device, monkeypatch):
    """An operator looks a metric up, or looks for one that the handbook names: each is in the table
    with its kind and its labels, and each in the table comes from a service that is at work."""
    monkeypatch.setattr(limits, "FEED_LAG_EVERY_SECONDS", 0.05)
    monkeypatch.setattr(limits, "COUNT_DEAD_LETTERS_SECONDS", 0.05)
    issuer = token_issuer(settings)
    token = issuer.integrator_token("erp", device.tenant_id, 600)
    async with (
        App(settings) as app,
        Caller(app.address, issuer.device_token(device)[0]) as till,
        Reader(app.address, token) as reader,
    ):
        sale = an_event()
        await till.offer(sale, an_event(body=Any(type_url=sale.body.type_url, value=b"\xff")))
        await till.offer(sale)
        (page, *_) = await reader.read()
        await reader.commit("erp", page.cursor)
        live = SyncServiceStub(till.channel).Pull(PullRequest(live=True), metadata=till.metadata)
        await live.read()
        wanted = set(METRICS)

        async def all_of_them():
            series = await scraped(app.http_port)
            return series if wanted <= series.names else None

        series = await eventually(all_of_them, within_seconds=20)
        live.cancel()

    kinds = dict(re.findall(r"^# TYPE (\S+) (\w+)$", series.text, re.MULTILINE))
    documented = metrics_in(HANDBOOK)
    assert set(kinds) - set(documented) == set()
    for name, kind in kinds.items():
        assert documented[name][0] == kind, name
        count = f"{name}_count" if kind == "histogram" else name
        for labels in series.labels(count):
            assert set(labels) == documented[name][1], name
            for label, value in labels.items():
                assert value in LABEL_VALUES.get(label, {value}), (name, label)


def test_the_handbook_names_every_probe():
    """Whoever sets a load balancer up finds each path and each name that answers."""
    chapter = HANDBOOK.partition("**Probes**")[2].partition("**Metrics**")[0]
    named = set(re.findall(r"`([/\w.]+)`", chapter))

    assert {name for name in named if name.startswith("/")} == HTTP_PATHS - {"/metrics"}
    assert HEALTH - set(SERVICES) - {""} <= named
    assert "/metrics" in HANDBOOK


def test_the_handbook_names_every_field_of_the_logs():
    """Whoever writes a search over the logs finds the fields that there are, and each event of the
    table is one that the service writes."""
    chapter = HANDBOOK.partition("**Logs**")[2]
    fields, _, table = chapter.partition("The events to know:")
    events = re.findall(r"^\| (`.*?) \|", table.partition("\n\nAt a till")[0], re.MULTILINE)
    source = "".join(
        path.read_text() for path in (ROOT / "service" / "src" / "tillsync_service").rglob("*.py")
    )

    assert set(re.findall(r"`(\w+)`", fields)) == logs.ALLOWED_FIELDS
    given = set(re.findall(r"\b(\w+)=", " ".join(re.findall(r"\blog\.\w+\(([^()]*)", source))))
    assert given - {"exc_info"} <= logs.ALLOWED_FIELDS
    names = re.findall(r"`(\w+)`", " ".join(events))
    assert len(names) > 5
    for name in set(names) - {"event"}:
        assert re.search(rf'log\.\w+\(\s*"{name}"', source), name


def test_the_handbook_names_settings_that_there_are():
    """Nobody sets what nobody reads."""
    assert unknown_settings(HANDBOOK) == set()
