"""The operator's settings: a slip is met at the start, in one line that names it."""

import os

import pytest
from pydantic import ValidationError

from tillsync_service import config
from tillsync_service.config import Settings, SettingsError


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    """No setting of the machine that runs the tests gets in."""
    for name in os.environ:
        if name.startswith("TILLSYNC_"):
            monkeypatch.delenv(name)


@pytest.fixture
def wrong(monkeypatch):
    """The line that these variables are refused with."""

    def load(**variables: str) -> str:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SettingsError) as caught:
            config.load()
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return load


def test_nothing_has_to_be_set():
    """Somebody who tries it out on a laptop sets nothing."""
    settings = config.load()

    assert settings.database_url is None
    assert settings.listen == "127.0.0.1:7070"
    assert settings.group_commit


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [
        ("TILLSYNC_DATABSE_URL", "TILLSYNC_DATABASE_URL"),
        ("TILLSYNC_LISTEN_", "TILLSYNC_LISTEN"),
        ("TILLSYNC_LOGLEVEL", "TILLSYNC_LOG_LEVEL"),
        ("TILLSYNC_STOP_GRACE", "TILLSYNC_STOP_GRACE_SECONDS"),
        ("TILLSYNC_OPERATOR_TOKN", "TILLSYNC_OPERATOR_TOKEN"),
    ],
)
def test_a_misspelt_variable_is_named_with_what_was_meant(wrong, misspelt, meant):
    """An operator who mistypes a limit is told, and does not run without it for a year."""
    assert wrong(**{misspelt: "1"}) == (
        f"{misspelt} is not a setting of tillsync-service. Did you mean {meant}?"
    )


def test_a_variable_like_none_is_named_without_a_guess(wrong):
    """A variable of some other program with our prefix is named; no guess misleads."""
    assert wrong(TILLSYNC_ZZZ="1") == "TILLSYNC_ZZZ is not a setting of tillsync-service."


@pytest.mark.parametrize(
    "variable", ["TILLSYNC_AGENT_SERVICE", "TILLSYNC_TEST_ADMIN_URL", "TILLSYNC_OPERATOR_TOKEN"]
)
def test_other_programs_variables_are_left_alone(monkeypatch, variable):
    """Service and agent run on one machine without quarrelling."""
    monkeypatch.setenv(variable, "x")

    config.load()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TILLSYNC_DATABASE_CONNECTIONS", "many"),
        ("TILLSYNC_DATABASE_CONNECTIONS", "1"),
        ("TILLSYNC_DATABASE_CONNECTIONS", "101"),
        ("TILLSYNC_STOP_GRACE_SECONDS", "-1"),
        ("TILLSYNC_STOP_GRACE_SECONDS", "601"),
        ("TILLSYNC_GROUP_COMMIT", "perhaps"),
        ("TILLSYNC_ALLOW_PLAINTEXT", "2"),
        ("TILLSYNC_LOG_LEVEL", "loud"),
        ("TILLSYNC_LOG_FORMAT", "xml"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_it(wrong, name, value):
    """The operator reads the variable's name and what it may be, and no stack trace."""
    line = wrong(**{name: value})

    assert line.startswith(f"{name}: ")
    assert len(line) < 200


def test_an_open_address_wants_tls(wrong):
    """A service that anybody can reach does not take tokens in the clear by mistake."""
    line = wrong(TILLSYNC_LISTEN="0.0.0.0:7070")

    assert "TILLSYNC_LISTEN" in line
    assert "TILLSYNC_ALLOW_PLAINTEXT" in line


@pytest.mark.parametrize("listen", ["127.0.0.1:1", "localhost:1", "[::1]:1"])
def test_the_machine_itself_needs_no_tls(monkeypatch, listen):
    """Trying it out needs no certificate."""
    monkeypatch.setenv("TILLSYNC_LISTEN", listen)

    assert config.load().is_loopback


def test_plaintext_can_be_allowed(monkeypatch):
    """Behind a load balancer that ends TLS, the operator says so."""
    monkeypatch.setenv("TILLSYNC_LISTEN", "0.0.0.0:7070")
    monkeypatch.setenv("TILLSYNC_ALLOW_PLAINTEXT", "true")

    assert not config.load().is_loopback


@pytest.mark.parametrize("one", ["TILLSYNC_TLS_CERTIFICATE", "TILLSYNC_TLS_KEY"])
def test_half_a_certificate_is_refused(wrong, one):
    """A certificate without its key does not end up as a service without TLS."""
    line = wrong(**{one: "/x.pem"})

    assert "TILLSYNC_TLS_CERTIFICATE" in line
    assert "TILLSYNC_TLS_KEY" in line


def test_a_configured_database_wants_named_keys(monkeypatch):
    """Replicas on one database share their keys; none makes some of its own in silence."""
    monkeypatch.setenv("TILLSYNC_DATABASE_URL", "postgresql://login:pw@db/tillsync")

    with pytest.raises(SettingsError, match="TILLSYNC_SIGNING_KEYS"):
        _ = config.load().signing_keys_file


def test_no_secret_shows(monkeypatch, wrong):
    """A screenshot of a log or an error gives nobody the database's password."""
    for name in ("TILLSYNC_DATABASE_URL", "TILLSYNC_MIGRATION_URL"):
        monkeypatch.setenv(name, "postgresql://login:hunter2@db/tillsync")

    settings = config.load()

    assert "hunter2" not in f"{settings!r} {settings} {settings.model_dump_json()}"
    assert "hunter2" not in wrong(TILLSYNC_LISTEN="hunter2-host:1", TILLSYNC_LOG_LEVEL="hunter2")


def test_settings_do_not_change():
    """What the service started with is what it runs with."""
    with pytest.raises(ValidationError):
        Settings().listen = "elsewhere"


def test_the_login_is_read_from_the_url():
    """`migrate up` lets the login of TILLSYNC_DATABASE_URL serve, whatever it is called."""
    assert config.login_of("postgresql://till%20sync:pw@db/x") == "till sync"
    assert config.login_of("postgresql://db/x") is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TILLSYNC_LISTEN", "127.0.0.1:99999"),  # gRPC would quietly take the port modulo 65536
        ("TILLSYNC_LISTEN", "127.0.0.1"),
        ("TILLSYNC_DATABASE_URL", "rubbish"),
        ("TILLSYNC_DATABASE_URL", "mysql://u:secret@db/x"),
        ("TILLSYNC_DATABASE_URL", "postgresql://u:secret@db:port/x"),
        ("TILLSYNC_MIGRATION_URL", "postgresql://u:secret@db:99999/x"),
    ],
)
def test_an_address_that_cannot_be_is_one_line(monkeypatch, name, value):
    """An operator's slip in an address is named at once, and the password is not repeated."""
    monkeypatch.setenv(name, value)

    with pytest.raises(config.SettingsError) as caught:
        config.load()

    assert str(caught.value).startswith(f"{name}: ")
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)
