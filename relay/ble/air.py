# SPDX-License-Identifier: GPL-2.0-or-later
"""Asyncio's side of the GATT service and the advertisements, for one life of bluetoothd."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, Self

from relay.ble.peripheral import BeaconAdvertisement, GattApplication, error_name

if TYPE_CHECKING:
    from relay.ble.glib_thread import GLibThread
    from relay.ble.peripheral import Owner

_ALREADY: Final = "org.bluez.Error.AlreadyExists"


class BluezAir:
    """An :class:`relay.ble.adapter.Air` over bluezero."""

    def __init__(self, glib: GLibThread, application: GattApplication) -> None:
        """Use :meth:`open`."""
        self._glib = glib
        self._application = application
        self._advertisements: dict[str, BeaconAdvertisement] = {}

    @classmethod
    async def open(cls, glib: GLibThread, owner: Owner) -> Self:
        """Put the objects on the bus; bluetoothd must be running."""
        return cls(glib, await glib.call(GattApplication, glib, owner))

    async def close(self) -> None:
        """Take them off again."""
        for advertisement in self._advertisements.values():
            await self._glib.call(advertisement.close)
        await self._glib.call(self._application.close)

    def notify(self, slot: int, values: list[bytes]) -> None:
        """Send notifications of a slot's TX."""
        self._glib.post(self._application.notify, slot, values)

    async def register_service(self, adapter_path: str) -> None:
        """Offer the GATT service on an adapter, if it does not yet."""
        try:
            await self._glib.call_back(partial(self._application.register, adapter_path))
        except Exception as error:
            if error_name(error) != _ALREADY:
                raise

    async def advertise(self, adapter_path: str, beacon: bytes) -> None:
        """Begin to advertise on an adapter."""
        advertisement = self._advertisements.get(adapter_path)
        if advertisement is None:
            advertisement = await self._glib.call(BeaconAdvertisement, adapter_path)
            self._advertisements[adapter_path] = advertisement
        await self._glib.call(advertisement.set_beacon, beacon)
        try:
            await self._glib.call_back(advertisement.register)
        except Exception as error:
            if error_name(error) != _ALREADY:
                raise
            # It was switched off and on; what bluetoothd kept may have another beacon.
            await self._glib.call_back(advertisement.unregister)
            await self._glib.call_back(advertisement.register)

    def refresh(self, adapter_path: str, beacon: bytes) -> None:
        """Advertise this from now on, and again if a connection stopped it."""
        advertisement = self._advertisements[adapter_path]
        self._glib.post(advertisement.set_beacon, beacon)
        self._glib.post(advertisement.refresh)

    async def silence(self, adapter_path: str) -> None:
        """Stop advertising on an adapter."""
        await self._glib.call_back(self._advertisements[adapter_path].unregister)
