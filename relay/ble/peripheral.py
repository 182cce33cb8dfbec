# SPDX-License-Identifier: GPL-2.0-or-later
"""The GATT service and the advertisements, as objects on the system bus (bluezero; docs/ble.md sections 2 and 3).

Everything here runs in the GLib thread. Decisions are made by :class:`Owner`, in
asyncio's thread; a read is answered when it has decided.
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, Protocol

import dbus
import dbus.service
from bluezero import constants
from bluezero.advertisement import Advertisement
from bluezero.localGATT import Application, Characteristic, Service

from relay.bluetooth.directions import WINDOW
from relay.bluetooth.gatt import (
    COMPANY,
    DEFAULT_MTU_BYTES,
    INFO_UUID,
    RELAY_INFO_UUID,
    RX_UUID,
    SERVICE_UUID,
    SLOT_UUID,
    TX_UUIDS,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from relay.ble.glib_thread import GLibThread

_SERVICE_ID: Final = 1
_NAME: Final = "org.bluez"
#: Writes of one device that asyncio has not taken yet. An honest one stops at its
#: window; what is beyond is dropped, 512 bytes each.
MAX_WAITING_WRITES: Final = 2 * WINDOW


class Owner(Protocol):
    """Who decides; called in asyncio's thread. Devices are named by their object paths."""

    def on_read(self, uuid: str, device: str, mtu_bytes: int) -> bytes:
        """Return the value that a device reads."""

    def on_write(self, device: str, value: bytes) -> None:
        """Take in what a device wrote to RX."""

    def on_writes_dropped(self, count: int) -> None:
        """Count writes that were dropped, since their devices wrote too many."""


class _Inbox:
    """Writes on their way from one thread to the other, bounded for each device."""

    def __init__(self, glib: GLibThread, owner: Owner) -> None:
        self._glib = glib
        self._owner = owner
        self._lock = threading.Lock()
        self._waiting: Counter[str] = Counter()
        self._dropped = 0

    def put(self, device: str, value: bytes) -> None:
        """Hand a write over; in the GLib thread."""
        with self._lock:
            if self._waiting[device] >= MAX_WAITING_WRITES:
                self._dropped += 1
                return
            self._waiting[device] += 1
        self._glib.tell(self._take, device, value)

    def _take(self, device: str, value: bytes) -> None:
        with self._lock:
            self._waiting[device] -= 1
            if self._waiting[device] <= 0:
                del self._waiting[device]
            dropped, self._dropped = self._dropped, 0
        if dropped:
            self._owner.on_writes_dropped(dropped)
        self._owner.on_write(device, value)


class _Value(Characteristic):
    """A characteristic whose reads the owner answers."""

    def __init__(self, number: int, uuid: str, flags: list[str], glib: GLibThread, owner: Owner) -> None:
        super().__init__(_SERVICE_ID, number, uuid, [], False, flags)
        self._uuid = uuid
        self._glib = glib
        self._owner = owner

    # bluezero would tell every reader's value to all who listen on the bus.
    @dbus.service.method(
        constants.GATT_CHRC_IFACE, in_signature="a{sv}", out_signature="ay", async_callbacks=("reply", "fail")
    )
    def ReadValue(  # noqa: N802 - BlueZ's name
        self, options: dict[str, Any], reply: Callable[[bytes], None], fail: Callable[[Exception], None]
    ) -> None:
        """Answer when the owner has."""
        device = str(options.get("device", ""))
        mtu_bytes = int(options.get("mtu", DEFAULT_MTU_BYTES))
        offset = int(options.get("offset", 0))

        def decide() -> None:
            try:
                value = self._owner.on_read(self._uuid, device, mtu_bytes)
            except Exception as error:
                self._glib.post(fail, dbus.exceptions.DBusException(name="org.bluez.Error.Failed"))
                raise error from None
            self._glib.post(reply, dbus.ByteArray(value[offset:]))

        self._glib.tell(decide)


class _Inlet(Characteristic):
    """RX."""

    def __init__(self, number: int, inbox: _Inbox) -> None:
        super().__init__(_SERVICE_ID, number, RX_UUID, [], False, ["write", "write-without-response"])
        self._inbox = inbox

    @dbus.service.method(constants.GATT_CHRC_IFACE, in_signature="aya{sv}", byte_arrays=True)
    def WriteValue(self, value: bytes, options: dict[str, Any]) -> None:  # noqa: N802 - BlueZ's name
        """Hand the frame over, without telling its value to all who listen on the bus, as bluezero would."""
        self._inbox.put(str(options.get("device", "")), bytes(value))


class _Outlet(Characteristic):
    """TX of one slot."""

    def __init__(self, number: int, uuid: str) -> None:
        super().__init__(_SERVICE_ID, number, uuid, [], False, ["notify"])

    def notify(self, values: list[bytes]) -> None:
        """Send each to whoever subscribed."""
        for value in values:
            changed = dbus.Dictionary({"Value": dbus.ByteArray(value)}, signature="sv")
            self.PropertiesChanged(constants.GATT_CHRC_IFACE, changed, dbus.Array([], signature="s"))


class GattApplication:
    """The service, with its characteristics; made anew for each life of bluetoothd."""

    def __init__(self, glib: GLibThread, owner: Owner) -> None:
        """``bluetoothd`` must be running: bluezero looks its objects up."""
        self._application = Application()
        outlets = [_Outlet(10 + slot, uuid) for slot, uuid in enumerate(TX_UUIDS)]
        self._objects = [
            Service(_SERVICE_ID, SERVICE_UUID, True),
            _Value(1, INFO_UUID, ["read"], glib, owner),
            _Value(2, SLOT_UUID, ["read"], glib, owner),
            _Inlet(3, _Inbox(glib, owner)),
            _Value(4, RELAY_INFO_UUID, ["read"], glib, owner),
            *outlets,
        ]
        self._outlets = outlets
        for item in self._objects:
            self._application.add_managed_object(item)

    def notify(self, slot: int, values: list[bytes]) -> None:
        """Send notifications of the slot's TX."""
        self._outlets[slot].notify(values)

    def register(self, adapter_path: str, reply: Callable[[None], None], fail: Callable[[Exception], None]) -> None:
        """Offer the service on one more adapter."""
        manager = _interface(adapter_path, constants.GATT_MANAGER_IFACE)
        _start(manager.RegisterApplication, self._application.get_path(), reply, fail)

    def close(self) -> None:
        """Take the objects off the bus."""
        for item in (self._application, *self._objects):
            item.remove_from_connection()


class BeaconAdvertisement(Advertisement):
    """Our advertisement on one adapter: service and beacon, connectable."""

    def __init__(self, adapter_path: str) -> None:
        # bluezero names the object by a number: that of hci0, hci1, ...
        super().__init__(int(adapter_path.rpartition("hci")[2]), "peripheral")
        self._adapter_path = adapter_path
        self.service_UUIDs = [SERVICE_UUID]

    def set_beacon(self, beacon: bytes) -> None:
        """Have other data advertised at the next registration or :meth:`refresh`."""
        self.manufacturer_data(COMPANY, beacon)

    def refresh(self) -> None:
        """Have bluetoothd advertise again, with the data of now: a connection stopped it."""
        data = self.GetAll(constants.LE_ADVERTISEMENT_IFACE)["ManufacturerData"]
        changed = dbus.Dictionary({"ManufacturerData": data}, signature="sv")
        self.PropertiesChanged(constants.LE_ADVERTISEMENT_IFACE, changed, dbus.Array([], signature="s"))

    def register(self, reply: Callable[[None], None], fail: Callable[[Exception], None]) -> None:
        """Begin to advertise."""
        manager = _interface(self._adapter_path, constants.LE_ADVERTISING_MANAGER_IFACE)
        _start(manager.RegisterAdvertisement, self.get_path(), reply, fail)

    def unregister(self, reply: Callable[[None], None], fail: Callable[[Exception], None]) -> None:
        """Stop advertising."""
        manager = _interface(self._adapter_path, constants.LE_ADVERTISING_MANAGER_IFACE)
        manager.UnregisterAdvertisement(self.get_path(), reply_handler=lambda: reply(None), error_handler=fail)

    # The flag, without the adapter being discoverable to all the world: bluezero does not know it.
    @dbus.service.method(dbus.PROPERTIES_IFACE, in_signature="s", out_signature="a{sv}")
    def GetAll(self, interface_name: str) -> dict[str, Any]:  # noqa: N802 - D-Bus's name
        """Return what is advertised."""
        properties: dict[str, Any] = super().GetAll(interface_name)
        properties["Discoverable"] = dbus.Boolean(True)
        return properties

    # bluezero's advertisement does not tell BlueZ of a change.
    @dbus.service.signal(dbus.PROPERTIES_IFACE, signature="sa{sv}as")
    def PropertiesChanged(self, interface: str, changed: dict[str, Any], invalidated: list[str]) -> None:  # noqa: N802
        """D-Bus's signal."""

    def close(self) -> None:
        """Take the object off the bus."""
        self.remove_from_connection()


def _interface(path: str, name: str) -> Any:
    # A new proxy for each call: an older one may name a bluetoothd that is gone.
    return dbus.Interface(dbus.SystemBus().get_object(_NAME, path, introspect=False), name)


def _start(method: Any, path: str, reply: Callable[[None], None], fail: Callable[[Exception], None]) -> None:
    """Call a method that asks us for our objects before it answers, so that nobody may wait for it here."""
    method(path, dbus.Dictionary({}, signature="sv"), reply_handler=lambda: reply(None), error_handler=fail)


def error_name(error: Exception) -> str:
    """Return the name of an error of D-Bus, such as org.bluez.Error.Failed; "" for any other."""
    return str(error.get_dbus_name() or "") if isinstance(error, dbus.exceptions.DBusException) else ""
