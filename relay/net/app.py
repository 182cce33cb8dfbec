# SPDX-License-Identifier: GPL-2.0-or-later
"""`relay net`: puts the parts together, and the network back at the end."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import random
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from relay.config import paths
from relay.config.credentials import WIFI_SECRET, resolve
from relay.core.errors import DecodeError
from relay.net import changes
from relay.net.access_point import AccessPoint
from relay.net.bridge import Bridge
from relay.net.errors import ForeignStateError
from relay.net.found import FILE_NAME, Record
from relay.net.machine import Machine
from relay.net.net_report import Reporting
from relay.net.nl80211 import Nl80211
from relay.net.radio import RadioTask
from relay.net.refusals import Refusals
from relay.net.rtnetlink import Links
from relay.net.undo import undo
from relay.process import logs
from relay.process.notify import Notifier
from relay.process.report_connection import report_forever
from relay.process.stopping import stop_signals, until_stopped

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from relay.config.file import Config
    from relay.config.net import NetConfig

logger = logging.getLogger(__name__)

#: RuntimeDirectory= of relay-net.service.
SYSTEM_FOLDER: Final = Path("/run/mesh-relay-net")
#: How often the service manager is told how it goes; a third of the watchdog's time, where it has one.
_STATUS_S: Final = 20.0


def with_secrets(net: NetConfig, environ: Mapping[str, str]) -> NetConfig:
    """Fill in the secrets that are in a file of their own; raise ConfigError."""
    radios = {
        name: replace(radio, secret=resolve(radio.secret, WIFI_SECRET, environ)) for name, radio in net.radios.items()
    }
    return replace(net, radios=radios)


def link_socket(config: Config, environ: Mapping[str, str]) -> Path:
    """Where relay run listens: the runtime folder that systemd gives is our own, not its."""
    if environ.get("RUNTIME_DIRECTORY") and config.unix.path.parent == paths.runtime_directory(environ):
        return paths.SYSTEM_RUNTIME / config.unix.path.name
    return config.unix.path


def record_folder(environ: Mapping[str, str]) -> Path:
    """Where the record lies: in our own runtime folder, else in that of the system's service."""
    own = paths.runtime_directory(environ)
    # A folder that may not be looked into makes Path.exists raise; os.path.lexists says no.
    systems = not os.path.lexists(own / FILE_NAME) and os.path.lexists(SYSTEM_FOLDER / FILE_NAME)
    return SYSTEM_FOLDER if systems else own


@contextlib.contextmanager
def only_one(runtime: Path) -> Iterator[None]:
    """Keep another `relay net` from taking our work for that of a dead one; raise ForeignStateError when it lives."""
    try:
        runtime.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = os.open(runtime, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise ForeignStateError(f"{runtime}: {error.strerror}; run it as root or as the user of the service") from error
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ForeignStateError("a `relay net` is running, and puts the network back when it is stopped") from error
        yield
    finally:
        os.close(folder)


def open_record(runtime: Path) -> Record:
    """Read the record that a run before this one may have left; raise ForeignStateError."""
    record = Record(runtime / FILE_NAME)
    try:
        record.load()
    except (DecodeError, OSError) as error:
        raise ForeignStateError(
            f"{runtime / FILE_NAME}: {error}; look over the machine's network by hand, then remove the file"
        ) from error
    return record


def run(config: Config) -> int:
    """Run until SIGTERM or SIGINT; return the exit status."""
    logs.setup(config.log.level)
    with only_one(paths.runtime_directory(os.environ)):
        return asyncio.run(_serve(config, os.environ))


def run_undo(runtime: Path) -> list[str]:
    """Put back what a `relay net` that crashed has left; return what could not be."""
    with only_one(runtime):
        return asyncio.run(_undo(runtime))


async def _undo(runtime: Path) -> list[str]:
    outcome = await undo(open_record(runtime), runtime)
    return outcome.problems


async def _serve(config: Config, environ: Mapping[str, str]) -> int:
    stopping = stop_signals()
    notifier = Notifier(environ)
    runtime = paths.runtime_directory(environ)
    record = open_record(runtime)
    # A run before this one may have been killed, and nobody may have called `relay net undo`.
    outcome = await undo(record, runtime)
    for problem in outcome.problems:
        logger.warning("could not put back what an earlier run has changed: %s", problem)
    net = with_secrets(config.net, environ)
    reporting = Reporting(ports=len(net.bridge))
    reporting.count("restored", outcome.restored)
    try:
        async with Links() as links, Nl80211() as radios:
            machine = Machine(net, links=links, radios=radios, record=record, runtime=runtime, reporting=reporting)
            work = [changes.watch(machine.changes, reporting), _tell(notifier, reporting)]
            work.append(report_forever(link_socket(config, environ), reporting.reporter, random=random.random))
            work += [RadioTask(name, radio, machine).run(random.random) for name, radio in net.radios.items()]
            if net.bridge:
                work.append(Bridge(machine).run(random.random))
            if net.access_point:
                work.append(AccessPoint(machine).run(random.random))
            if net.access_point or net.bridge:
                work.append(Refusals(reporting).run())
            notifier.ready("joining")
            await until_stopped(stopping, work, notifier, reporting.stopped)
    finally:
        outcome = await undo(record, runtime)
        for problem in outcome.problems:
            logger.error("could not put back what was found: %s", problem)
    return 1 if outcome.problems else 0


async def _tell(notifier: Notifier, reporting: Reporting) -> None:
    """Feed the watchdog, which a blocked loop would not, and say how it goes."""
    interval_s = min(_STATUS_S, (notifier.watchdog_timeout_s or 3 * _STATUS_S) / 3)
    while True:
        notifier.watchdog()
        notifier.status(reporting.summary)
        await asyncio.sleep(interval_s)
