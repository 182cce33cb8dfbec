# SPDX-License-Identifier: GPL-2.0-or-later
"""`relay bitchat`: puts the parts together."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import os
import secrets
from typing import TYPE_CHECKING

import relay
from relay.adapters import privacy
from relay.adapters.bus import follow_bus, open_bus
from relay.bitchat.live import KIND
from relay.bitchat.service import CHARACTERISTIC_UUID, SERVICE_UUID
from relay.bitchat_gateway.central import Central
from relay.bitchat_gateway.gateway import Gateway
from relay.bitchat_gateway.letters import Letters
from relay.bitchat_gateway.peripheral import Peripheral
from relay.bitchat_gateway.radio import Radio
from relay.bluetooth.local import LocalService
from relay.config.settings import CREDENTIAL
from relay.core.secret import mesh_secret
from relay.process import link_socket, logs
from relay.process.gateway_client import GatewayClient
from relay.process.notify import Notifier, run_watchdog
from relay.process.progress import Progress
from relay.process.report_connection import report_forever
from relay.process.reports import Component, Reporter
from relay.process.stopping import stop_signals, until_stopped

if TYPE_CHECKING:
    from collections.abc import Mapping

    from relay.config.ble import BleConfig
    from relay.config.file import Config

logger = logging.getLogger(__name__)


def run(config: Config) -> int:
    """Run until SIGTERM or SIGINT; return the exit code. Raise relay.adapters.bus.NoBusError."""
    logs.setup(config.log.level)
    if not config.bitchat.enabled:
        if "NOTIFY_SOCKET" not in os.environ:
            # Whoever starts it by hand would see it end without a word.
            logger.warning("bitchat is switched off; write enabled = true below [bitchat] in relay.toml")
        # A service that ends before it was ready has failed, and would be started again.
        Notifier(os.environ).ready("disabled in the configuration")
        return 0
    for text in privacy.warnings():
        logger.warning(text)
    asyncio.run(_serve(config, os.environ))
    return 0


def earliest_ms() -> int:
    """When this program was released: no phone's clock that says an earlier time is believed."""
    return int(dt.datetime.fromisoformat(relay.__released__).replace(tzinfo=dt.UTC).timestamp() * 1000)


async def _serve(config: Config, environ: Mapping[str, str]) -> None:
    loop = asyncio.get_running_loop()
    stopping = stop_signals()
    notifier = Notifier(environ)
    reporter = Reporter(Component.BITCHAT)
    progress = Progress(loop.time)
    random = secrets.SystemRandom().random
    async with await open_bus(with_descriptors=True) as bluez:
        gateway = Gateway(
            nickname=config.bitchat.nickname,
            earliest_ms=earliest_ms(),
            random=random,
            random_bytes=secrets.token_bytes,
            reporter=reporter,
            carry_media=config.bitchat.carry_media,
        )
        peripheral = Peripheral(gateway, max_phones=config.bitchat.max_phones, reporter=reporter)
        service = LocalService(bluez, peripheral, service_uuid=SERVICE_UUID, characteristic_uuid=CHARACTERISTIC_UUID)
        central = Central(
            gateway,
            bluez,
            max_dialled=config.bitchat.max_dialled,
            reporter=reporter,
            random=random,
            service_uuid=SERVICE_UUID,
            characteristic_uuid=CHARACTERISTIC_UUID,
        )
        peripheral.number_dialled = central.number_of
        radio = Radio(
            name=config.bitchat.adapter,
            is_shared=lambda name: _has(config.ble, name),
            rotation_s=config.ble.rotation_s,
            bluez=bluez,
            reporter=reporter,
            random=random,
            service=service,
            gateway=gateway,
            peripheral=peripheral,
            central=central,
        )
        peripheral.notify_all = service.notify_all
        peripheral.hang_up = radio.hang_up
        client = GatewayClient(
            config.unix.path,
            link_socket.Gateway(name="bitchat", kinds=frozenset({KIND})),
            on_live=gateway.heard_live,
            on_clock=lambda unix_ms: _taken(gateway, radio, unix_ms),
            on_away=lambda: _away(gateway, radio, reporter),
        )
        gateway.to_relays = client.send
        gateway.letters = letters = Letters(
            gateway,
            path=config.unix.path,
            # Where `relay run` alone has the secret we are a client without it, as any phone is.
            secret=None if config.mesh.secret == CREDENTIAL else mesh_secret(config.mesh.secret),
            reporter=reporter,
            random=random,
        )
        work = [
            gateway.run(),
            letters.run(),
            client.run(random=random),
            radio.run(),
            report_forever(config.unix.path, reporter, random=random),
            radio.measure_forever(),
            follow_bus(bluez),
            run_watchdog(notifier, progress, lambda: None),
        ]
        notifier.ready("running")
        await until_stopped(stopping, work, notifier, reporter.stopped)


def _taken(gateway: Gateway, radio: Radio, unix_ms: int | None) -> None:
    """`relay run` took us, or has something to say about its clock."""
    gateway.trust(unix_ms)
    radio.tell_open(is_open=True)


def _away(gateway: Gateway, radio: Radio, reporter: Reporter) -> None:
    gateway.trust(None)
    radio.tell_open(is_open=False)
    reporter.count("relay_unreachable")


def _has(ble: BleConfig, name: str) -> bool:
    """Whether `relay ble` uses an adapter."""
    return ble.enabled and (not ble.adapters or name in ble.adapters)
