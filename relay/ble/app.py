# SPDX-License-Identifier: GPL-2.0-or-later
"""`relay ble`: puts the parts together."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from typing import TYPE_CHECKING, Final

from relay.adapters import privacy
from relay.adapters.bus import follow_bus, open_bus
from relay.ble.adapters import Radio
from relay.ble.glib_thread import GLibThread
from relay.ble.server import Server
from relay.bluetooth import l2cap
from relay.process import logs
from relay.process.notify import Notifier, run_watchdog
from relay.process.progress import Progress
from relay.process.report_connection import report_forever
from relay.process.reports import Component, Reporter, decode_news
from relay.process.stopping import stop_signals, until_stopped

if TYPE_CHECKING:
    from collections.abc import Mapping

    from relay.config.ble import BleConfig
    from relay.config.file import Config
    from relay.process.reports import NewsForBle

logger = logging.getLogger(__name__)

#: Longer than the interval at which the watchdog's tick asks the thread for a sign of life.
GLIB_LIMIT_S: Final = 150.0


def run(config: Config) -> int:
    """Run until SIGTERM or SIGINT; return the exit code. Raise relay.adapters.bus.NoBusError."""
    logs.setup(config.log.level)
    settings = config.ble
    if not settings.enabled:
        # A service that ends before it was ready has failed, and would be started again.
        Notifier(os.environ).ready("disabled in the configuration")
        return 0
    for text in privacy.warnings():
        logger.warning(text)
    asyncio.run(_serve(config, settings, os.environ))
    return 0


async def _serve(config: Config, settings: BleConfig, environ: Mapping[str, str]) -> None:
    loop = asyncio.get_running_loop()
    stopping = stop_signals()
    notifier = Notifier(environ)
    reporter = Reporter(Component.BLE)
    progress = Progress(loop.time)
    # Of some of it depends whether a listener knows our address again.
    random = secrets.SystemRandom().random
    async with await open_bus() as bluez:
        glib = GLibThread()
        beating = progress.register("glib", limit_s=GLIB_LIMIT_S)
        glib.start()
        radio = Radio(
            config=settings,
            bluez=bluez,
            glib=glib,
            reporter=reporter,
            random=random,
            random_bytes=secrets.token_bytes,
            is_shared=config.bitchat.enabled,
        )
        server = Server(
            max_clients=settings.max_clients,
            socket_path=config.unix.path,
            reporter=reporter,
            notify=radio.notify,
            hang_up=radio.hang_up,
        )

        radio.server = server

        def on_news(news: NewsForBle | None) -> None:
            if news is None:
                server.close_all()
            else:
                server.is_open = True
            radio.tell_news(news)

        def on_away() -> None:
            on_news(None)
            reporter.count("relay_unreachable")

        work = [
            _serve_channels(server),
            report_forever(
                config.unix.path,
                reporter,
                random=random,
                on_line=lambda line: on_news(decode_news(line)),
                on_away=on_away,
            ),
            radio.run(),
            radio.measure_forever(),
            follow_bus(bluez),
            run_watchdog(notifier, progress, lambda: glib.post(glib.tell, beating.beat)),
        ]
        notifier.ready("running")
        try:
            await until_stopped(stopping, work, notifier, reporter.stopped)
        finally:
            glib.stop()


async def _serve_channels(server: Server) -> None:
    listener = l2cap.listen()
    await server.run(listener, l2cap.local_psm(listener))
