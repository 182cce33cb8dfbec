# SPDX-License-Identifier: GPL-2.0-or-later
"""Objects of ours on the system bus, for bluetoothd: a GATT service, and advertisements (BlueZ's doc/org.bluez.*.rst).

One characteristic, with notifications for each device by itself: those go through a socket that bluetoothd asks for
when a device subscribes (AcquireNotify), as what is told by a signal goes to all who subscribed. Beside `bluez` the
only module that imports dbus-next.
"""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from dbus_next.constants import MessageType
from dbus_next.message import Message
from dbus_next.signature import Variant

from relay.bluetooth.bluez import ADVERTISING, CHARACTERISTIC, BluezError, BluezFailure
from relay.bluetooth.gatt import DEFAULT_MTU_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from relay.bluetooth.bluez import Bluez

_GATT: Final = "org.bluez.GattManager1"
_SERVICE: Final = "org.bluez.GattService1"
_ADVERTISEMENT: Final = "org.bluez.LEAdvertisement1"
_PROPERTIES: Final = "org.freedesktop.DBus.Properties"
_OBJECT_MANAGER: Final = "org.freedesktop.DBus.ObjectManager"
_ROOT: Final = "/relay"
_SERVICE_PATH: Final = f"{_ROOT}/service"
_CHARACTERISTIC_PATH: Final = f"{_SERVICE_PATH}/characteristic"
_ADVERTISEMENT_PATH: Final = f"{_ROOT}/advertisement"
_REFUSED: Final = "org.bluez.Error.NotPermitted"
_FLAGS: Final = ["read", "write", "write-without-response", "notify"]


class RefusedError(Exception):
    """A device has no place here: it is told that it may not."""


class Owner(Protocol):
    """Who decides. Devices are named by their object paths; what raises RefusedError is refused."""

    def on_write(self, device: str, value: bytes, mtu_bytes: int) -> None:
        """Take in what a device wrote."""

    def on_subscribed(self, device: str, ours: socket.socket, mtu_bytes: int) -> None:
        """A device wants notifications: each packet written to ``ours`` is one; it ends with the subscription."""


@dataclass(frozen=True, slots=True)
class _Reply:
    signature: str = ""
    body: tuple[Any, ...] = ()
    descriptor: socket.socket | None = None


class LocalService:
    """A service with one characteristic, and one advertisement of it for each adapter; for the life of ``bluez``."""

    def __init__(self, bluez: Bluez, owner: Owner, *, service_uuid: str, characteristic_uuid: str) -> None:
        """``bluez`` must have been opened with descriptors."""
        self._bluez = bluez
        self._owner = owner
        self._service_uuid = service_uuid
        self._characteristic_uuid = characteristic_uuid

    @contextlib.contextmanager
    def on_the_bus(self) -> Iterator[None]:
        """Answer bluetoothd's questions."""
        with self._bluez.answering(self._on_call):
            yield

    async def offer(self, adapter_path: str) -> None:
        """Offer the service on an adapter, if it is not offered there; BluezError."""
        try:
            await self._bluez.call(adapter_path, _GATT, "RegisterApplication", "oa{sv}", _ROOT, {})
        except BluezError as error:
            if error.failure is not BluezFailure.ALREADY_EXISTS:
                raise

    async def advertise(self, adapter_path: str) -> None:
        """Begin to advertise on an adapter; BluezError."""
        path = self._advertisement(adapter_path)
        try:
            await self._bluez.call(adapter_path, ADVERTISING, "RegisterAdvertisement", "oa{sv}", path, {})
        except BluezError as error:
            if error.failure is not BluezFailure.ALREADY_EXISTS:
                raise
            # It was switched off and on; what bluetoothd kept may have another address.
            await self.silence(adapter_path)
            await self._bluez.call(adapter_path, ADVERTISING, "RegisterAdvertisement", "oa{sv}", path, {})

    async def silence(self, adapter_path: str) -> None:
        """Stop advertising there; BluezError."""
        path = self._advertisement(adapter_path)
        await self._bluez.call(adapter_path, ADVERTISING, "UnregisterAdvertisement", "o", path)

    def refresh(self, adapter_path: str) -> None:
        """Have bluetoothd advertise again: a connection stopped it."""
        changed = {"ServiceUUIDs": Variant("as", [self._service_uuid])}
        self._tell(self._advertisement(adapter_path), _ADVERTISEMENT, changed)

    def notify_all(self, value: bytes) -> None:
        """Notify all who subscribed."""
        self._tell(_CHARACTERISTIC_PATH, CHARACTERISTIC, {"Value": Variant("ay", value)})

    def _tell(self, path: str, interface: str, changed: dict[str, Variant]) -> None:
        self._bluez.send(
            Message(
                message_type=MessageType.SIGNAL,
                path=path,
                interface=_PROPERTIES,
                member="PropertiesChanged",
                signature="sa{sv}as",
                body=[interface, changed, []],
            )
        )

    @staticmethod
    def _advertisement(adapter_path: str) -> str:
        return f"{_ADVERTISEMENT_PATH}/{adapter_path.rpartition('/')[2]}"

    # -- what bluetoothd asks -------------------------------------------------------

    def _on_call(self, message: Message) -> Message | bool:
        """Answer a call of bluetoothd's; False if it is for none of our objects."""
        if not (message.path == _ROOT or message.path.startswith(f"{_ROOT}/")):
            return False
        try:
            reply = self._answer(message.path, message.interface, message.member, message.body)
        except RefusedError:
            return Message.new_error(message, _REFUSED, "no place is free")
        if reply is None:
            return False
        if reply.descriptor is None:
            return Message.new_method_return(message, reply.signature, list(reply.body))
        descriptor = reply.descriptor
        sent = self._bluez.send(
            Message.new_method_return(message, reply.signature, list(reply.body), unix_fds=[descriptor.fileno()])
        )
        # The bus has a copy of it then, or never will have.
        sent.add_done_callback(lambda _: descriptor.close())
        return True

    def _answer(self, path: str, interface: str | None, member: str, body: list[Any]) -> _Reply | None:
        match interface, member, body:
            case str(name), "GetManagedObjects", [] if name == _OBJECT_MANAGER and path == _ROOT:
                return _Reply("a{oa{sa{sv}}}", (self._objects(),))
            case str(name), "GetAll", [str(asked)] if name == _PROPERTIES and path.startswith(_ADVERTISEMENT_PATH):
                return _Reply("a{sv}", (self._advertised() if asked == _ADVERTISEMENT else {},))
            case str(name), "GetAll", [str(asked)] if name == _PROPERTIES:
                return _Reply("a{sv}", (self._objects().get(path, {}).get(asked, {}),))
            case str(name), "WriteValue", [bytes(value), dict(options)] if name == CHARACTERISTIC:
                self._owner.on_write(_device(options), value, _mtu_bytes(options))
                return _Reply()
            case str(name), "ReadValue", [dict()] if name == CHARACTERISTIC:
                return _Reply("ay", (b"",))
            case str(name), "AcquireNotify", [dict(options)] if name == CHARACTERISTIC:
                return self._subscribed(_device(options), _mtu_bytes(options))
            case str(name), "StartNotify" | "StopNotify" | "Confirm", [] if name == CHARACTERISTIC:
                return _Reply()
            case str(name), "Release", [] if name == _ADVERTISEMENT:
                return _Reply()
        return None

    def _subscribed(self, device: str, mtu_bytes: int) -> _Reply:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        theirs.setblocking(False)
        try:
            self._owner.on_subscribed(device, ours, mtu_bytes)
        except RefusedError:
            ours.close()
            theirs.close()
            raise
        return _Reply("hq", (0, mtu_bytes), theirs)

    def _objects(self) -> dict[str, dict[str, dict[str, Variant]]]:
        return {
            _SERVICE_PATH: {
                _SERVICE: {"UUID": Variant("s", self._service_uuid), "Primary": Variant("b", True)},
            },
            _CHARACTERISTIC_PATH: {
                CHARACTERISTIC: {
                    "UUID": Variant("s", self._characteristic_uuid),
                    "Service": Variant("o", _SERVICE_PATH),
                    "Flags": Variant("as", _FLAGS),
                    # That it is there says that AcquireNotify is.
                    "NotifyAcquired": Variant("b", False),
                }
            },
        }

    def _advertised(self) -> dict[str, Variant]:
        return {
            "Type": Variant("s", "peripheral"),
            "ServiceUUIDs": Variant("as", [self._service_uuid]),
            # The flag, without the adapter being discoverable to all the world.
            "Discoverable": Variant("b", True),
        }


def _device(options: dict[str, Any]) -> str:
    value = options.get("device")
    return str(value.value) if isinstance(value, Variant) else ""


def _mtu_bytes(options: dict[str, Any]) -> int:
    value = options.get("mtu")
    return int(value.value) if isinstance(value, Variant) and isinstance(value.value, int) else DEFAULT_MTU_BYTES
