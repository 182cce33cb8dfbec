# SPDX-License-Identifier: GPL-2.0-or-later
"""The system bus, as a program on Bluetooth needs it: there at its start, and its end when that goes."""

from __future__ import annotations

from typing import NoReturn

from relay.bluetooth.bluez import Bluez, BluezError
from relay.core.errors import RelayError


class NoBusError(RelayError):
    """There is no system bus, or there is none any more."""


async def open_bus(*, with_descriptors: bool = False) -> Bluez:
    """Connect to the system bus, as :meth:`relay.bluetooth.bluez.Bluez.open`; raise NoBusError with what to do."""
    try:
        return await Bluez.open(with_descriptors=with_descriptors)
    except BluezError as error:
        raise NoBusError("D-Bus does not answer; start dbus.service, and bluetooth.service beside it") from error


async def follow_bus(bluez: Bluez) -> NoReturn:
    """End the process with the system bus, which nothing here survives; it is started again. Raise NoBusError."""
    await bluez.wait_closed()
    raise NoBusError("D-Bus has ended, and with it all that Bluetooth was used for")
