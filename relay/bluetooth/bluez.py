# SPDX-License-Identifier: GPL-2.0-or-later
"""BlueZ over the system bus: adapters, devices and characteristics of others (BlueZ's doc/org.bluez.*.rst).

Beside `local` the only module that imports dbus-next. One `Bluez` is one connection to the bus; it outlives bluetoothd,
which may come and go: `Owner` tells, and calls in between fail with `BluezError`. What the bus says is
checked for its type here, so that nothing above has to.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from dbus_next.aio.message_bus import MessageBus
from dbus_next.constants import BusType, MessageFlag, MessageType
from dbus_next.errors import AuthError, DBusError
from dbus_next.message import Message
from dbus_next.signature import Variant

from relay.core.errors import RelayError

ADAPTER: Final = "org.bluez.Adapter1"
DEVICE: Final = "org.bluez.Device1"
CHARACTERISTIC: Final = "org.bluez.GattCharacteristic1"
ADVERTISING: Final = "org.bluez.LEAdvertisingManager1"
#: bluetoothd answers all but Connect within milliseconds; so long it takes only when it hangs.
CALL_TIMEOUT_S: Final = 10.0

_BLUEZ: Final = "org.bluez"
_BUS: Final = "org.freedesktop.DBus"
_PROPERTIES: Final = "org.freedesktop.DBus.Properties"
_OBJECT_MANAGER: Final = "org.freedesktop.DBus.ObjectManager"
#: By which programs of this machine tell each other whose connections are of use to them (relay.adapters.adapter).
#: Anybody on this machine can say so, and would keep a device connected by it.
_USES: Final = "org.mesh_relay.Uses1"
_USES_PATH: Final = "/relay"
_USES_MEMBER: Final = "InUse"
_RULES: Final = (
    f"type='signal',interface='{_USES}'",
    f"type='signal',sender='{_BLUEZ}'",
    f"type='signal',sender='{_BUS}',member='NameOwnerChanged',arg0='{_BLUEZ}'",
)

Properties = Mapping[str, Any]
Objects = dict[str, dict[str, dict[str, Any]]]
"""Object path to interface to property to value."""


class BluezFailure(enum.Enum):
    """What kind of failure, for whoever acts on it; the rest is one to try again later."""

    NO_BUS = "no_bus"
    NO_BLUEZ = "no_bluez"
    TIMEOUT = "timeout"
    UNKNOWN_OBJECT = "unknown_object"
    NOT_READY = "not_ready"
    IN_PROGRESS = "in_progress"
    ALREADY_EXISTS = "already_exists"
    REFUSED = "refused"


_FAILURES: Final = {
    "org.freedesktop.DBus.Error.ServiceUnknown": BluezFailure.NO_BLUEZ,
    "org.freedesktop.DBus.Error.NameHasNoOwner": BluezFailure.NO_BLUEZ,
    "org.freedesktop.DBus.Error.NoReply": BluezFailure.NO_BLUEZ,  # it went away meanwhile
    "org.freedesktop.DBus.Error.UnknownObject": BluezFailure.UNKNOWN_OBJECT,
    "org.freedesktop.DBus.Error.UnknownMethod": BluezFailure.UNKNOWN_OBJECT,  # so bluetoothd says it
    "org.bluez.Error.DoesNotExist": BluezFailure.UNKNOWN_OBJECT,
    "org.bluez.Error.NotReady": BluezFailure.NOT_READY,
    "org.bluez.Error.InProgress": BluezFailure.IN_PROGRESS,
    "org.bluez.Error.AlreadyExists": BluezFailure.ALREADY_EXISTS,
}


class BluezError(RelayError):
    """A call that did not work; the text never holds an address (object paths do, so they are left out)."""

    def __init__(self, failure: BluezFailure, member: str) -> None:
        super().__init__(f"{member}: {failure.value}")
        self.failure = failure


# -- what signals say -------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """bluetoothd came (all earlier objects are gone) or went."""

    is_running: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """An object, or more interfaces of one."""

    path: str
    interfaces: Mapping[str, Properties]


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """An object lost these interfaces."""

    path: str
    interfaces: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """Properties of one interface of an object have new values."""

    path: str
    interface: str
    properties: Properties


@dataclass(frozen=True, slots=True, kw_only=True)
class InUse:
    """Another program of this machine uses the connections of these devices, for some seconds."""

    paths: tuple[str, ...]


Event = Owner | Added | Removed | Changed | InUse


def is_lost(event: Event, device_path: str) -> bool:
    """Whether an event says that the connection with a device is over."""
    match event:
        case Changed(path=path, interface=interface):
            return path == device_path and interface == DEVICE and event.properties.get("Connected") is False
        case Removed(path=path):
            return path == device_path and DEVICE in event.interfaces
    return isinstance(event, Owner)


# -- what objects are ---------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """A Bluetooth adapter of this machine, such as hci0."""

    path: str
    address: str
    address_type: str
    """Of its identity address: "public" or "random"."""
    is_powered: bool

    @property
    def name(self) -> str:
        """What the kernel calls it."""
        return self.path.rpartition("/")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """Another device that bluetoothd heard or is connected with."""

    path: str
    address: str
    address_type: str
    is_connected: bool = False
    is_resolved: bool = False
    """Its services are known."""
    is_paired: bool = False
    rssi_dbm: int | None = None
    """None: not heard in this discovery."""
    uuids: tuple[str, ...] = ()
    manufacturer_data: Mapping[int, bytes] = field(default_factory=dict)


def adapters(objects: Objects) -> list[Adapter]:
    """Return all adapters, by name."""
    found = []
    for path, interfaces in objects.items():
        properties = interfaces.get(ADAPTER)
        if properties is not None:
            found.append(
                Adapter(
                    path=path,
                    address=_get(properties, "Address", str, ""),
                    address_type=_get(properties, "AddressType", str, ""),
                    is_powered=_get(properties, "Powered", bool, default=False),
                )
            )
    return sorted(found, key=lambda adapter: adapter.path)


def device(path: str, properties: Properties) -> Device:
    """Return what the properties of a `DEVICE` say."""
    return Device(
        path=path,
        address=_get(properties, "Address", str, ""),
        address_type=_get(properties, "AddressType", str, ""),
        is_connected=_get(properties, "Connected", bool, default=False),
        is_resolved=_get(properties, "ServicesResolved", bool, default=False),
        is_paired=_get(properties, "Paired", bool, default=False),
        rssi_dbm=_get(properties, "RSSI", int, None),
        uuids=tuple(uuid for uuid in _get(properties, "UUIDs", list, []) if isinstance(uuid, str)),
        manufacturer_data={
            company: data
            for company, data in _get(properties, "ManufacturerData", dict, {}).items()
            if isinstance(company, int) and isinstance(data, bytes)
        },
    )


def devices(objects: Objects, adapter_path: str) -> Iterator[Device]:
    """Return the devices that an adapter knows."""
    for path, interfaces in objects.items():
        if DEVICE in interfaces and path.startswith(f"{adapter_path}/"):
            yield device(path, interfaces[DEVICE])


def characteristics(objects: Objects, device_path: str) -> dict[str, tuple[str, int]]:
    """Return path and MTU (0 if not told) of the characteristics of a device, by UUID; of two alike, one."""
    return {
        _get(interfaces[CHARACTERISTIC], "UUID", str, ""): (path, _get(interfaces[CHARACTERISTIC], "MTU", int, 0))
        for path, interfaces in objects.items()
        if CHARACTERISTIC in interfaces and path.startswith(f"{device_path}/")
    }


def _get(properties: Properties, name: str, kind: type, default: Any) -> Any:
    value = properties.get(name, default)
    return value if isinstance(value, kind) else default


# -- the bus --------------------------------------------------------------------


class Bluez:
    """A connection to the system bus. An async context manager; made by `open`."""

    def __init__(self, bus: MessageBus) -> None:
        """Use `open`."""
        # dbus-next has types for some of its methods only.
        self._bus: Any = bus
        self._owner = ""
        self._listeners: list[Callable[[Event], None]] = []
        self._answer: Callable[[Message], Message | bool] | None = None

    @classmethod
    async def open(cls, *, with_descriptors: bool = False) -> Self:
        """Connect to the system bus; BluezError NO_BUS when there is none.

        ``with_descriptors``: sockets can be handed to bluetoothd.
        """
        try:
            bus = await MessageBus(bus_type=BusType.SYSTEM, negotiate_unix_fd=with_descriptors).connect()
        except (OSError, EOFError, AuthError) as error:
            raise BluezError(BluezFailure.NO_BUS, "connect") from error
        self = cls(bus)
        try:
            bus.add_message_handler(self._on_message)
            for rule in _RULES:
                await self._call(_BUS, "/org/freedesktop/DBus", _BUS, "AddMatch", "s", rule)
            with contextlib.suppress(BluezError):  # not running yet: Owner tells when it does
                self._owner = await self._call(_BUS, "/org/freedesktop/DBus", _BUS, "GetNameOwner", "s", _BLUEZ)
        except BaseException:
            await self.close()
            raise
        return self

    async def __aenter__(self) -> Self:
        """Return the connection itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close it."""
        await self.close()

    async def close(self) -> None:
        """Leave the bus: bluetoothd ends the discovery and the subscriptions that were made here."""
        self._listeners.clear()
        self._bus.disconnect()
        await self.wait_closed()

    async def wait_closed(self) -> None:
        """Return when the bus itself is gone."""
        # Whatever ended it, it is over. Shielded: all who wait do so for one future, and who is
        # cancelled would cancel that for the others.
        with contextlib.suppress(OSError, EOFError, DBusError):
            await asyncio.shield(self._bus.wait_for_disconnect())

    @property
    def is_running(self) -> bool:
        """Whether there is a bluetoothd."""
        return bool(self._owner)

    @contextlib.contextmanager
    def listening(self, listener: Callable[[Event], None]) -> Iterator[None]:
        """Have a function called for every event; it must not raise or block."""
        self._listeners.append(listener)
        try:
            yield
        finally:
            with contextlib.suppress(ValueError):  # closed before
                self._listeners.remove(listener)

    @contextlib.contextmanager
    def answering(self, answer: Callable[[Message], Message | bool]) -> Iterator[None]:
        """Have a function called for each call of bluetoothd's: it returns the reply, or True if it sent one."""
        self._answer = answer
        try:
            yield
        finally:
            self._answer = None

    def send(self, message: Message) -> asyncio.Future[None]:
        """Send a signal or a reply; the future is done when it was."""
        sent: asyncio.Future[None] = self._bus.send(message)
        return sent

    def tell_in_use(self, paths: list[str]) -> None:
        """Tell other programs of this machine that connections of these devices are used here."""
        self.send(
            Message(
                message_type=MessageType.SIGNAL,
                path=_USES_PATH,
                interface=_USES,
                member=_USES_MEMBER,
                signature="ao",
                body=[paths],
            )
        )

    async def instances(self, adapter_path: str) -> int:
        """Return how many advertisements are registered on an adapter, by all programs of this machine."""
        value = await self.call(adapter_path, _PROPERTIES, "Get", "ss", ADVERTISING, "ActiveInstances")
        count = _plain(value)
        return count if isinstance(count, int) else 0

    async def objects(self) -> Objects:
        """Return everything that bluetoothd has."""
        found = await self.call("/", _OBJECT_MANAGER, "GetManagedObjects")
        return {
            path: {interface: _plain(properties) for interface, properties in interfaces.items()}
            for path, interfaces in found.items()
        }

    async def call(
        self,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        *body: Any,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> Any:
        """Call a method of bluetoothd and return its first value; BluezError when it fails."""
        # Without the flag a bluetoothd that the operator stopped would be started again by systemd.
        return await self._call(
            _BLUEZ, path, interface, member, signature, *body, timeout_s=timeout_s, flags=MessageFlag.NO_AUTOSTART
        )

    async def set_property(self, adapter_path: str, name: str, value: bool | str) -> None:  # noqa: FBT001 - a property's value
        """Give a property of an adapter another value."""
        variant = Variant("b" if isinstance(value, bool) else "s", value)
        await self.call(adapter_path, _PROPERTIES, "Set", "ssv", ADAPTER, name, variant)

    # -- discovery --------------------------------------------------------------

    async def start_discovery(self, adapter_path: str, uuid: str) -> None:
        """Scan on LE for a service until `stop_discovery`; those heard come as `Added` and `Changed`."""
        wanted = {
            "UUIDs": Variant("as", [uuid]),
            "Transport": Variant("s", "le"),
            # Without, what changes in an advertisement of the same address would not be told.
            "DuplicateData": Variant("b", True),
        }
        await self.call(adapter_path, ADAPTER, "SetDiscoveryFilter", "a{sv}", wanted)
        await self.call(adapter_path, ADAPTER, "StartDiscovery")

    async def stop_discovery(self, adapter_path: str) -> None:
        """Stop scanning."""
        await self.call(adapter_path, ADAPTER, "StopDiscovery")

    # -- devices ------------------------------------------------------------------

    async def connect(
        self,
        device_path: str,
        *,
        timeout_s: float,
        link_timeout_s: float | None = None,
        on_linked: Callable[[], None] = lambda: None,
    ) -> None:
        """Connect, `on_linked`, and wait until the device's services are known, all within `timeout_s`."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        resolved = loop.create_future()

        def look(event: Event) -> None:
            if resolved.done():
                return
            if is_lost(event, device_path):
                resolved.set_exception(BluezError(BluezFailure.REFUSED, "Connect"))
            elif isinstance(event, Changed) and event.path == device_path:
                if event.properties.get("Connected") is True and not limit.expired():
                    limit.reschedule(began_s + timeout_s)
                    on_linked()
                if event.properties.get("ServicesResolved") is True:
                    resolved.set_result(None)

        calling = asyncio.ensure_future(self.call(device_path, DEVICE, "Connect", timeout_s=timeout_s))
        try:
            async with asyncio.timeout(timeout_s if link_timeout_s is None else link_timeout_s) as limit:
                with self.listening(look):
                    # Of a connection that was lost bluetoothd makes another by itself, which nobody may scan beside.
                    await asyncio.wait({calling, resolved}, return_when=asyncio.FIRST_COMPLETED)
                    if not resolved.done() or resolved.exception() is None:
                        await calling
                    await resolved
        except TimeoutError:
            raise BluezError(BluezFailure.TIMEOUT, "Connect") from None
        finally:
            calling.cancel()
            if calling.done() and not calling.cancelled():
                calling.exception()
            if resolved.done() and not resolved.cancelled():
                resolved.exception()  # that of a connection lost while Connect still ran has been told by that

    async def disconnect(self, device_path: str, *, timeout_s: float = CALL_TIMEOUT_S) -> None:
        """End the connection, or the attempt at one."""
        await self.call(device_path, DEVICE, "Disconnect", timeout_s=timeout_s)

    async def forget(self, adapter_path: str, device_path: str, *, timeout_s: float = CALL_TIMEOUT_S) -> None:
        """Disconnect a device and have bluetoothd delete what it keeps of it, on disk too."""
        await self.call(adapter_path, ADAPTER, "RemoveDevice", "o", device_path, timeout_s=timeout_s)

    # -- characteristics --------------------------------------------------------------

    async def read(self, characteristic_path: str) -> bytes:
        """Return the value of a characteristic."""
        value = await self.call(characteristic_path, CHARACTERISTIC, "ReadValue", "a{sv}", {})
        return value if isinstance(value, bytes) else b""

    async def write_command(self, characteristic_path: str, value: bytes) -> None:
        """Write without response: returns when bluetoothd has taken it, which says nothing about its arrival."""
        options = {"type": Variant("s", "command")}
        await self.call(characteristic_path, CHARACTERISTIC, "WriteValue", "aya{sv}", value, options)

    async def start_notify(self, characteristic_path: str) -> None:
        """Subscribe: values come as `Changed` with "Value", bytes."""
        await self.call(characteristic_path, CHARACTERISTIC, "StartNotify")

    async def stop_notify(self, characteristic_path: str) -> None:
        """End the subscription."""
        await self.call(characteristic_path, CHARACTERISTIC, "StopNotify")

    # -- inside -----------------------------------------------------------------------

    async def _call(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        *body: Any,
        timeout_s: float = CALL_TIMEOUT_S,
        flags: MessageFlag = MessageFlag.NONE,
    ) -> Any:
        message = Message(
            destination=destination,
            path=path,
            interface=interface,
            member=member,
            signature=signature,
            body=list(body),
            flags=flags,
        )
        try:
            # On a bus that is gone, dbus-next would wait for ever.
            async with asyncio.timeout(timeout_s):
                reply = await self._bus.call(message)
        except TimeoutError:
            raise BluezError(BluezFailure.TIMEOUT, member) from None
        except (OSError, EOFError) as error:
            raise BluezError(BluezFailure.NO_BUS, member) from error
        if reply is None:  # the bus was closed meanwhile
            raise BluezError(BluezFailure.NO_BUS, member)
        if reply.message_type is MessageType.ERROR:
            raise BluezError(_FAILURES.get(reply.error_name, BluezFailure.REFUSED), member)
        return reply.body[0] if reply.body else None

    def _on_message(self, message: Message) -> Message | bool:
        """Tell listeners what a signal says. The owner is checked: anybody on the bus can send us messages."""
        if message.message_type is MessageType.METHOD_CALL:
            is_ours = self._answer is not None and message.sender == self._owner
            return self._answer(message) if self._answer is not None and is_ours else False
        if message.message_type is not MessageType.SIGNAL:
            return False
        event: Event | None = None
        if message.sender == _BUS:
            if message.member == "NameOwnerChanged" and message.body[0] == _BLUEZ:
                self._owner = message.body[2]
                event = Owner(is_running=self.is_running)
        elif message.sender == self._owner:
            event = _event(message)
        elif message.interface == _USES and message.sender != self._bus.unique_name and message.signature == "ao":
            event = InUse(paths=tuple(message.body[0]))
        if event is not None:
            for listener in list(self._listeners):
                listener(event)
        return False


def _event(message: Message) -> Event | None:
    match message.interface, message.member, message.signature:
        case str(interface), "PropertiesChanged", "sa{sv}as" if interface == _PROPERTIES:
            return Changed(path=message.path, interface=message.body[0], properties=_plain(message.body[1]))
        case str(interface), "InterfacesAdded", "oa{sa{sv}}" if interface == _OBJECT_MANAGER:
            added = {name: _plain(properties) for name, properties in message.body[1].items()}
            return Added(path=message.body[0], interfaces=added)
        case str(interface), "InterfacesRemoved", "oas" if interface == _OBJECT_MANAGER:
            return Removed(path=message.body[0], interfaces=tuple(message.body[1]))
    return None


def _plain(value: Any) -> Any:
    """Return a value of D-Bus without the variants in it."""
    if isinstance(value, Variant):
        return _plain(value.value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value
