"""The service's settings: environment variables TILLSYNC_*, read once, frozen."""

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self
from urllib.parse import unquote, urlsplit

from pydantic import (
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from tillsync_service.foundation import limits
from tillsync_service.foundation.embedded import default_data_dir

PREFIX = "TILLSYNC_"
# Variables of this prefix that belong to others.
_NOT_OURS = ("TILLSYNC_AGENT_", "TILLSYNC_TEST_")
# What the operator's own commands read (operator/); known here so that they count as spelt right.
CLIENT_SETTINGS = {
    "service_address": "The service that they speak to, HOST:PORT (default: 127.0.0.1:7070).",
    "operator_token": "Who they are: $(tillsync-service operator-token) on the service's machine.",
    "ca_file": "PEM of your own CA, for TLS (default: the public ones).",
}

MAX_PORT = 65_535
OFF = "off"
_LOOPBACK = ("127.0.0.1:", "localhost:", "[::1]:")


class SettingsError(ValueError):
    """A setting is wrong or missing: one line that names it and says what to do."""


class Settings(BaseSettings):
    """Every field is the environment variable TILLSYNC_<NAME>."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    database_url: SecretStr | None = Field(
        None,
        description="PostgreSQL 15 or newer, postgresql://login:password@host/database. "
        "Unset: an embedded PostgreSQL in data_dir.",
    )
    listen_url: SecretStr | None = Field(
        None,
        description="The same database past a transaction pooler, for LISTEN. Unset: database_url.",
    )
    migration_url: SecretStr | None = Field(
        None,
        description="Where `migrate` logs in, as the owner of the tables. Unset: database_url.",
    )
    database_connections: int = Field(
        limits.POOL_CONNECTIONS,
        ge=2,
        le=100,
        description="Connections that this replica opens for sales at most. Tokens, operators and "
        f"the service itself have {limits.OFFICE_POOL_CONNECTIONS} and "
        f"{limits.CONTROL_POOL_CONNECTIONS} more.",
    )
    projection_workers: int = Field(
        limits.DEFAULT_PROJECTION_WORKERS,
        ge=0,
        le=32,
        description="How many tenants' sales this replica writes into tables at once, each over a "
        "connection of its own. 0: this replica leaves it to others.",
    )
    keep_deletions_days: int = Field(
        limits.DEFAULT_KEEP_DELETIONS_DAYS,
        ge=1,
        le=3_650,
        description="How long a deleted record is remembered. A till away for longer loads "
        "its records anew.",
    )
    data_dir: Path | None = Field(
        None,
        description="Where the embedded PostgreSQL and its signing keys live. "
        "Unset: the user's data folder, or /var/lib/tillsync for root.",
    )
    listen: str = Field(
        "127.0.0.1:7070", description="Address and port of the gRPC server; port 0 picks one."
    )
    tls_certificate: Path | None = Field(
        None, description="PEM chain of the server; reloaded when the file changes."
    )
    tls_key: Path | None = Field(None, description="PEM key of tls_certificate.")
    allow_plaintext: bool = Field(
        default=False,
        description="Listen without TLS beyond this machine, behind something that ends TLS.",
    )
    signing_keys: Path | None = Field(
        None,
        description="JWKS file with the Ed25519 keys that sign tokens (made by `keys new`). "
        "Unset: one is made in data_dir, with the embedded PostgreSQL only.",
    )
    http_listen: str | None = Field(
        None,
        description="Address and port of probes and metrics over HTTP, without TLS. Unset: this "
        'machine alone, at the port after TILLSYNC_LISTEN\'s. "off": none.',
    )
    otlp_endpoint: str | None = Field(
        None,
        description="Where traces, metrics and logs are sent, OTLP over gRPC, as in "
        "http://collector:4317. Unset: nowhere.",
    )
    trace_ratio: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Which part of the calls is traced. Where a caller or a till began the trace, "
        "it has decided.",
    )
    ready_timeout_seconds: float = Field(
        1.0,
        gt=0,
        le=30,
        description="How long the database may take to answer before the service is not ready.",
    )
    drain_notice_seconds: float = Field(
        0.0,
        ge=0,
        le=300,
        description="How long a stop goes on taking work after it has said that it is not ready, "
        "so that load balancers notice.",
    )
    stop_grace_seconds: float = Field(
        20.0, ge=0, le=600, description="How long a stop waits for calls that are under way."
    )
    group_commit: bool = Field(
        default=True, description="Off gives every call its own transaction: for measuring only."
    )
    measured: bool = Field(
        default=True, description="Off counts and traces nothing: for measuring only."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info",
        description="The least severe level that is logged: debug, info, warning or error.",
    )
    log_format: Literal["json", "text"] = Field(
        "json", description="How log lines look: json for programs, text for people."
    )

    @field_validator("database_url", "listen_url", "migration_url")
    @classmethod
    def _is_database_url(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None:
            try:
                parts = urlsplit(url.get_secret_value())
                is_right = parts.scheme in ("postgresql", "postgres") and parts.port != 0
            except ValueError:  # a port that is none
                is_right = False
            if not is_right or not (parts.hostname or parts.query):
                raise ValueError("it has the form postgresql://login:password@host:port/database.")
        return url

    @field_validator("listen", "http_listen")
    @classmethod
    def _is_address(cls, address: str | None, field: ValidationInfo) -> str | None:
        if address is None or (address == OFF and field.field_name == "http_listen"):
            return address
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or int(port) > MAX_PORT:
            raise ValueError(f"{address} is no address and port, such as 127.0.0.1:7070.")
        return address

    @field_validator("otlp_endpoint")
    @classmethod
    def _is_endpoint(cls, endpoint: str | None) -> str | None:
        if endpoint is not None and not endpoint.startswith(("http://", "https://")):
            raise ValueError(f"{endpoint} is none: it has the form http://collector:4317.")
        return endpoint

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("TILLSYNC_TLS_CERTIFICATE and TILLSYNC_TLS_KEY go together: set both.")
        if not self.tls_certificate and not self.allow_plaintext and not self.is_loopback:
            raise ValueError(
                f"TILLSYNC_LISTEN is {self.listen}: beyond this machine set "
                "TILLSYNC_TLS_CERTIFICATE and TILLSYNC_TLS_KEY, or TILLSYNC_ALLOW_PLAINTEXT=true "
                "behind something that ends TLS."
            )
        return self

    @property
    def http_address(self) -> str | None:
        """Where probes and metrics are; None: nowhere."""
        if self.http_listen:
            return None if self.http_listen == OFF else self.http_listen
        port = int(self.listen.rpartition(":")[2])
        return f"127.0.0.1:{port and port % MAX_PORT + 1}"

    @property
    def is_loopback(self) -> bool:
        return self.listen.startswith(_LOOPBACK)

    @property
    def folder(self) -> Path:
        """Where the embedded PostgreSQL and its keys live."""
        return self.data_dir or default_data_dir()

    @property
    def signing_keys_file(self) -> Path:
        """Where the signing keys are. Raises SettingsError when nobody said."""
        if self.signing_keys:
            return self.signing_keys
        if self.database_url:
            raise SettingsError(
                "TILLSYNC_SIGNING_KEYS is missing: with TILLSYNC_DATABASE_URL set, name the file "
                "that `tillsync-service keys new FILE` made."
            )
        return self.folder / "signing-keys.json"


def login_of(url: str) -> str | None:
    """The login that a database URL names."""
    login = urlsplit(url).username
    return None if login is None else unquote(login)


def load(environment: Mapping[str, str] | None = None) -> Settings:
    """The settings. Raises SettingsError with one line about the first thing that is wrong."""
    _refuse_misspelt(os.environ if environment is None else environment)
    try:
        return Settings()  # type: ignore[call-arg]  # the environment supplies the fields
    except ValidationError as error:
        raise SettingsError(_one_line(error)) from None


def _refuse_misspelt(environment: Mapping[str, str]) -> None:
    # pydantic-settings passes over an unknown variable, and a misspelt limit is then no limit.
    known = [name.upper() for name in (*Settings.model_fields, *CLIENT_SETTINGS)]
    for variable in environment:
        name = variable.removeprefix(PREFIX)
        if name == variable or variable.startswith(_NOT_OURS) or name in known:
            continue
        close = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {PREFIX}{close[0]}?" if close else ""
        raise SettingsError(f"{variable} is not a setting of tillsync-service.{hint}")


def _one_line(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    message = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        return message
    return f"{PREFIX}{str(first['loc'][0]).upper()}: {message}"
