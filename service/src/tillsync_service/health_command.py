"""The command that asks a service whether it is well, for containers and scripts: a module of its
own, since it runs every few seconds and the database's libraries take a second to import."""

import asyncio
import sys
from pathlib import Path

import click
from cryptography import x509

from tillsync_service import config
from tillsync_service.config import Settings, SettingsError
from tillsync_service.operator.client import OperatorError, Service, Target

# What a server listens on when it takes every address of its machine, and where to ask it there.
_HERE = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 - it asks, it does not bind


@click.command()
@click.argument("name", default="")
@click.option(
    "--service",
    "address",
    metavar="HOST:PORT",
    envvar="TILLSYNC_SERVICE_ADDRESS",
    show_envvar=True,
    help="Default: the service of this machine, where its settings say.",
)
@click.option(
    "--ca-file",
    type=click.Path(path_type=Path),
    envvar="TILLSYNC_CA_FILE",
    show_envvar=True,
    help="PEM of your own CA.",
)
@click.option("--plaintext", is_flag=True, help="No TLS, to another machine.")
@click.option(
    "--timeout",
    "timeout_seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=3.0,
    show_default=True,
    help="Seconds.",
)
def health(
    *, name: str, address: str | None, ca_file: Path | None, plaintext: bool, timeout_seconds: float
) -> None:
    """Ask a service whether it is SERVING. NAME is one of health's services: startup, liveness,
    readiness, or one of tillsync.v1; without it, the whole.

    \b
    Exit status: 0 it is, 1 it is not, or nobody answers.
    Example: tillsync-service health readiness --timeout 2
    """
    try:
        target = Target(address, ca_file, plaintext) if address else _own_service(config.load())
        asyncio.run(_must_serve(target, name, timeout_seconds))
    except (SettingsError, OperatorError) as error:
        click.echo(f"tillsync-service: {error}", err=True)
        sys.exit(1)
    click.echo("SERVING")


async def _must_serve(target: Target, name: str, timeout_seconds: float) -> None:
    async with Service(target) as service:
        await service.must_serve(name, timeout_seconds=timeout_seconds)


def _own_service(settings: Settings) -> Target:
    """Where the service of these settings is. One with TLS is known by its very certificate: that
    one is trusted, by whatever name it bears. Raises SettingsError."""
    host, _, port = settings.listen.rpartition(":")
    address = f"{_HERE.get(host, host)}:{port}"
    certificate = settings.tls_certificate
    if certificate is None:
        return Target(address, plaintext=True)
    try:
        return Target(address, ca_file=certificate, server_name=_name_in(certificate.read_bytes()))
    except (OSError, ValueError) as error:
        raise SettingsError(f"TILLSYNC_TLS_CERTIFICATE: {certificate}: {error}") from error


def _name_in(certificate: bytes) -> str:
    """A name that a PEM certificate is for; empty if it bears none. Raises ValueError."""
    extensions = x509.load_pem_x509_certificate(certificate).extensions
    try:
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ""
    for name in names.get_values_for_type(x509.DNSName):
        return name.replace("*", "health", 1)
    return next(map(str, names.get_values_for_type(x509.IPAddress)), "")
