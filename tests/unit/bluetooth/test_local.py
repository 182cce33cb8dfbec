# SPDX-License-Identifier: GPL-2.0-or-later
"""Our objects on the bus, and who may call them (tests/radio has a real bluetoothd)."""

import asyncio
import os

import pytest
from dbus_next.constants import MessageType
from dbus_next.message import Message
from dbus_next.signature import Variant

from relay.bluetooth.bluez import CHARACTERISTIC, DEVICE, Bluez, InUse
from relay.bluetooth.local import LocalService, RefusedError
from tests.unit.bluetooth.test_bluez import BLUETOOTHD, owner_changed
from tests.unit.jumping import run

SERVICE = "f47b5e2d-4a9e-4c5a-9b3f-8e1d2c3a4b5c"
VALUE = "a1b2c3d4-e5f6-4a5b-8c9d-0e1f2a3b4c5d"
PHONE = "/org/bluez/hci0/dev_11_22_33_44_55_66"
OPTIONS = {"device": Variant("o", PHONE), "mtu": Variant("q", 185)}
PROPERTIES = "org.freedesktop.DBus.Properties"


class Bus:
    """What is sent, in order; sent at once."""

    unique_name = ":1.99"

    def __init__(self):
        self.sent = []

    def send(self, message):
        self.sent.append(message)
        # It has to be a true descriptor when it is written.
        for descriptor in message.unix_fds:
            os.fstat(descriptor)
        done = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done


class Owner:
    def __init__(self):
        self.written = []
        self.sockets = []
        self.is_full = False

    def on_write(self, device, value, mtu_bytes):
        if self.is_full:
            raise RefusedError
        self.written.append((device, value, mtu_bytes))

    def on_subscribed(self, device, ours, mtu_bytes):
        if self.is_full:
            raise RefusedError
        self.sockets.append((device, ours, mtu_bytes))


class World:
    def __init__(self):
        self.bus = Bus()
        self.bluez = Bluez(bus=self.bus)
        self.bluez._on_message(owner_changed(BLUETOOTHD))
        self.owner = Owner()
        self.service = LocalService(self.bluez, self.owner, service_uuid=SERVICE, characteristic_uuid=VALUE)

    def call(self, path, interface, member, signature="", *body, sender=BLUETOOTHD):
        message = Message(
            path=path, interface=interface, member=member, signature=signature, body=list(body), sender=sender, serial=7
        )
        return self.bluez._on_message(message)

    def objects(self):
        return self.call("/relay", "org.freedesktop.DBus.ObjectManager", "GetManagedObjects").body[0]

    def path(self):
        return next(path for path, interfaces in self.objects().items() if CHARACTERISTIC in interfaces)


def in_world(scenario):
    async def main():
        world = World()
        with world.service.on_the_bus():
            await scenario(world)
        assert world.call("/relay", "org.freedesktop.DBus.ObjectManager", "GetManagedObjects") is False

    run(main())


def test_bluetoothd_finds_one_service_with_one_characteristic_and_what_is_advertised():
    async def scenario(world):
        objects = world.objects()
        [service] = [found for found in objects.values() if "org.bluez.GattService1" in found]
        assert service["org.bluez.GattService1"]["UUID"].value == SERVICE
        [value] = [found[CHARACTERISTIC] for found in objects.values() if CHARACTERISTIC in found]
        assert value["UUID"].value == VALUE
        assert set(value["Flags"].value) == {"read", "write", "write-without-response", "notify"}
        # That it is there asks bluetoothd for a socket for each device.
        assert "NotifyAcquired" in value
        advertised = world.call("/relay/advertisement/hci0", PROPERTIES, "GetAll", "s", "org.bluez.LEAdvertisement1")
        assert advertised.body[0]["ServiceUUIDs"].value == [SERVICE]
        assert world.call("/relay/advertisement/hci0", PROPERTIES, "GetAll", "s", DEVICE).body == [{}]

    in_world(scenario)


def test_what_a_device_writes_arrives_with_its_name_and_nobody_but_bluetoothd_may_say_so():
    async def scenario(world):
        path = world.path()
        reply = world.call(path, CHARACTERISTIC, "WriteValue", "aya{sv}", b"packet", OPTIONS)
        assert reply.message_type is MessageType.METHOD_RETURN
        assert world.call(path, CHARACTERISTIC, "WriteValue", "aya{sv}", b"forged", OPTIONS, sender=":1.8") is False
        assert world.owner.written == [(PHONE, b"packet", 185)]
        # Without options it is nobody's, of the least MTU there is.
        world.call(path, CHARACTERISTIC, "WriteValue", "aya{sv}", b"bare", {})
        assert world.owner.written[1:] == [("", b"bare", 23)]
        assert world.call(path, CHARACTERISTIC, "WriteValue", "s", "no bytes") is False
        assert world.call("/elsewhere", CHARACTERISTIC, "WriteValue", "aya{sv}", b"x", OPTIONS) is False
        world.owner.is_full = True
        refused = world.call(path, CHARACTERISTIC, "WriteValue", "aya{sv}", b"packet", OPTIONS)
        assert (refused.message_type, refused.error_name) == (MessageType.ERROR, "org.bluez.Error.NotPermitted")

    in_world(scenario)


def test_a_device_that_subscribes_has_a_socket_of_its_own_whose_other_end_is_bluetoothds():
    async def scenario(world):
        path = world.path()
        assert world.call(path, CHARACTERISTIC, "AcquireNotify", "a{sv}", OPTIONS) is True
        [reply] = world.bus.sent
        assert (reply.signature, reply.body) == ("hq", [0, 185])
        [(device, ours, mtu_bytes)] = world.owner.sockets
        assert (device, mtu_bytes) == (PHONE, 185)
        await asyncio.sleep(0)
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(reply.unix_fds[0])
        # Nobody holds the other end: as if bluetoothd had closed it.
        assert ours.recv(10) == b""
        ours.close()
        world.owner.is_full = True
        refused = world.call(path, CHARACTERISTIC, "AcquireNotify", "a{sv}", OPTIONS)
        assert refused.message_type is MessageType.ERROR
        assert len(world.bus.sent) == 1

    in_world(scenario)


def test_what_is_for_all_and_a_new_advertisement_are_told_by_signals():
    async def scenario(world):
        path = world.path()
        world.service.notify_all(b"packet")
        world.service.refresh("/org/bluez/hci1")
        told, refreshed = world.bus.sent
        assert (told.path, told.member, told.body[0]) == (path, "PropertiesChanged", CHARACTERISTIC)
        assert told.body[1]["Value"].value == b"packet"
        assert (refreshed.path, refreshed.body[0]) == ("/relay/advertisement/hci1", "org.bluez.LEAdvertisement1")

    in_world(scenario)


def test_programs_tell_each_other_which_connections_they_use_and_do_not_hear_themselves():
    async def scenario(world):
        heard = []
        with world.bluez.listening(heard.append):
            world.bluez.tell_in_use([PHONE])
            [said] = world.bus.sent
            for sender in (Bus.unique_name, ":1.7", ":1.50"):
                said.sender = sender
                world.bluez._on_message(said)
        # What bluetoothd says is read as its own.
        assert heard == [InUse(paths=(PHONE,))]

    in_world(scenario)
