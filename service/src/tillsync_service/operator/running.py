"""Runs an operator's command on a service: its options, its one line of failure, its signals."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from tillsync_service.operator.client import OperatorError, Service, Target
from tillsync_service.operator.output import say

DEFAULT_ADDRESS = "127.0.0.1:7070"
_HANG_UP: signal.Signals | None = getattr(signal, "SIGHUP", None)  # Windows has none
_SIGNALS = tuple(filter(None, (signal.SIGINT, signal.SIGTERM, _HANG_UP)))

Result = TypeVar("Result")
Decorated = TypeVar("Decorated", bound=Callable[..., Any])
Action = Callable[..., Coroutine[Any, Any, int | None]]


def on_service(*, failure_status: int = 1) -> Callable[[Action], Callable[..., None]]:
    """Makes `function(service, **options)` a click callback with the options that say which
    service. An OperatorError is one line on standard error and `failure_status`; a signal cancels
    the function once, lets it clean up, and is then the exit status as a shell shows it."""

    def decorate(function: Action) -> Callable[..., None]:
        @_option("--service", "address", "SERVICE_ADDRESS", "HOST:PORT", default=DEFAULT_ADDRESS)
        @_option("--ca-file", "ca_file", "CA_FILE", "PEM of your own CA.", type=_FILE)
        @click.option(
            "--plaintext", is_flag=True, help="No TLS, to another machine: everybody can read."
        )
        @wraps(function)
        def run(*, address: str, ca_file: Path | None, plaintext: bool, **options: object) -> None:
            # No option: what stands on a command line can be read by everybody on the machine.
            token = os.environ.get("TILLSYNC_OPERATOR_TOKEN", "")

            async def act() -> int | None:
                async with Service(Target(address, ca_file, plaintext, token)) as service:
                    return await function(service, **options)

            try:
                status = asyncio.run(_until_signalled(act()))
            except OperatorError as error:
                say(f"tillsync-service: {error}", err=True)
                status = failure_status
            sys.exit(status or 0)

        return run

    return decorate


_FILE = click.Path(path_type=Path)


def _option(
    flag: str, name: str, setting: str, text: str, **more: Any
) -> Callable[[Decorated], Decorated]:
    return click.option(
        flag,
        name,
        envvar=f"TILLSYNC_{setting}",
        show_envvar=True,
        show_default=True,
        help=text,
        **more,
    )


async def to_the_end(work: Coroutine[Any, Any, Result]) -> Result:
    """Awaits the work, and lets it end also when the awaiting task is cancelled meanwhile. Raises
    what the work raises, and then only the cancellation."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        if not task.cancelled() and (error := task.exception()):
            raise error from None
        raise


async def _until_signalled(work: Coroutine[Any, Any, int | None]) -> int | None:
    task = asyncio.ensure_future(work)
    caught: list[int] = []

    def stop(number: int) -> None:
        # Once: a second Ctrl-C would cut off the cleaning up that the first began.
        if not caught:
            task.cancel()
        caught.append(number)
        say("Stopping; cleaning up first.", err=True)

    _on_signals(stop)
    try:
        return await task
    except asyncio.CancelledError:
        return 128 + caught[0] if caught else 1
    finally:
        if caught:
            _ignore_signals()


def _on_signals(act: Callable[[int], None]) -> None:
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        if number is _HANG_UP and signal.getsignal(number) is signal.SIG_IGN:
            continue  # nohup
        try:
            loop.add_signal_handler(number, act, int(number))
        except NotImplementedError:  # Windows' loop has none
            signal.signal(number, lambda caught, _: loop.call_soon_threadsafe(act, caught))


def _ignore_signals() -> None:
    """From here to the exit: an impatient second Ctrl-C must not change the status."""
    for number in _SIGNALS:
        with suppress(NotImplementedError):
            asyncio.get_running_loop().remove_signal_handler(number)
        signal.signal(number, signal.SIG_IGN)
