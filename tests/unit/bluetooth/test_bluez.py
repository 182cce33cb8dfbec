# SPDX-License-Identifier: GPL-2.0-or-later
"""What BlueZ's objects and signals say, whoever else sends some (tests/radio has a real bluetoothd)."""

import asyncio

import pytest
from dbus_next.message import Message
from dbus_next.signature import Variant

from relay.bluetooth import bluez
from relay.bluetooth.bluez import (
    ADAPTER,
    CHARACTERISTIC,
    DEVICE,
    Added,
    Bluez,
    BluezError,
    BluezFailure,
    Changed,
    Owner,
    Removed,
)
from tests.unit.jumping import run

HCI0 = "/org/bluez/hci0"
PHONE = f"{HCI0}/dev_11_22_33_44_55_66"
BUS = "org.freedesktop.DBus"
PROPERTIES = "org.freedesktop.DBus.Properties"
BLUETOOTHD = ":1.7"
OBJECTS = {
    "/org/bluez/hci1": {ADAPTER: {"Address": "02:00:00:00:00:02", "AddressType": "random", "Powered": False}},
    HCI0: {ADAPTER: {"Address": "02:00:00:00:00:01", "AddressType": "public", "Powered": True}},
    "/org/bluez": {"org.bluez.AgentManager1": {}},
    PHONE: {
        DEVICE: {
            "Address": "11:22:33:44:55:66",
            "AddressType": "random",
            "RSSI": -71,
            "Connected": True,
            "UUIDs": ["ab070001-cc92-439d-ad42-3677ca4805bf"],
            "ManufacturerData": {0xFFFF: b"saldig"},
        }
    },
    f"{PHONE}/service0001/char0002": {CHARACTERISTIC: {"UUID": "ab07", "MTU": 517}},
    f"{HCI0}/dev_11_22_33_44_55_67/service0001/char0002": {CHARACTERISTIC: {"UUID": "ab08"}},
    "/org/bluez/hci10/dev_11_22_33_44_55_66": {DEVICE: {"Address": "11:22:33:44:55:66"}},
}


def test_adapters_devices_and_characteristics_are_found_where_they_belong():
    assert [(one.name, one.address_type, one.is_powered) for one in bluez.adapters(OBJECTS)] == [
        ("hci0", "public", True),
        ("hci1", "random", False),
    ]
    (phone,) = bluez.devices(OBJECTS, HCI0)
    assert (phone.path, phone.rssi_dbm, phone.is_connected, phone.is_resolved) == (PHONE, -71, True, False)
    assert phone.manufacturer_data == {0xFFFF: b"saldig"}
    assert list(bluez.devices(OBJECTS, "/org/bluez/hci1")) == []
    assert bluez.characteristics(OBJECTS, PHONE) == {"ab07": (f"{PHONE}/service0001/char0002", 517)}


def test_properties_of_a_wrong_type_are_as_good_as_none():
    wrong = {
        "Address": 7,
        "RSSI": "near",
        "Connected": "yes",
        "UUIDs": "all",
        "ManufacturerData": {0xFFFF: "text", "x": b"y"},
    }
    device = bluez.device(PHONE, wrong)
    assert device == bluez.Device(path=PHONE, address="", address_type="")


@pytest.fixture
def heard():
    """A connection to a bus on which bluetoothd is BLUETOOTHD, and what its listener heard."""
    connection = Bluez(bus=None)
    events = []
    with connection.listening(events.append):
        connection._on_message(owner_changed(BLUETOOTHD))
        events.clear()
        yield connection, events
    connection._on_message(owner_changed(""))


def signal(sender, path, interface, member, signature, *body):
    message = Message.new_signal(path, interface, member, signature, list(body))
    message.sender = sender
    return message


def owner_changed(owner, sender=BUS, name="org.bluez"):
    return signal(sender, "/org/freedesktop/DBus", BUS, "NameOwnerChanged", "sss", name, "", owner)


def rssi(sender):
    values = {"RSSI": Variant("n", -50)}
    return signal(sender, PHONE, "org.freedesktop.DBus.Properties", "PropertiesChanged", "sa{sv}as", DEVICE, values, [])


def test_signals_become_events_without_variants(heard):
    connection, events = heard
    manager = "org.freedesktop.DBus.ObjectManager"
    data = {"ManufacturerData": Variant("a{qv}", {0xFFFF: Variant("ay", b"saldig")})}
    connection._on_message(signal(BLUETOOTHD, "/", manager, "InterfacesAdded", "oa{sa{sv}}", PHONE, {DEVICE: data}))
    connection._on_message(rssi(BLUETOOTHD))
    connection._on_message(signal(BLUETOOTHD, "/", manager, "InterfacesRemoved", "oas", PHONE, [DEVICE]))
    assert events == [
        Added(path=PHONE, interfaces={DEVICE: {"ManufacturerData": {0xFFFF: b"saldig"}}}),
        Changed(path=PHONE, interface=DEVICE, properties={"RSSI": -50}),
        Removed(path=PHONE, interfaces=(DEVICE,)),
    ]


def test_signals_of_others_and_of_other_shapes_are_not_believed(heard):
    connection, events = heard
    connection._on_message(rssi(":1.66"))
    connection._on_message(owner_changed(":1.66", sender=":1.66"))
    connection._on_message(owner_changed(":1.66", name="org.example"))
    connection._on_message(
        signal(BLUETOOTHD, PHONE, "org.freedesktop.DBus.Properties", "PropertiesChanged", "s", DEVICE)
    )
    assert events == []
    assert connection.is_running


def test_bluetoothd_comes_and_goes_under_another_name_each_time(heard):
    connection, events = heard
    connection._on_message(owner_changed(""))
    assert not connection.is_running
    connection._on_message(rssi(BLUETOOTHD))
    connection._on_message(owner_changed(":1.8"))
    connection._on_message(rssi(":1.8"))
    assert [type(event) for event in events] == [Owner, Owner, Changed]
    assert [event.is_running for event in events[:2]] == [False, True]
    assert connection.is_running


def test_a_lost_connection_is_told_in_several_ways():
    disconnected = {"Connected": False}
    assert bluez.is_lost(Changed(path=PHONE, interface=DEVICE, properties=disconnected), PHONE)
    assert bluez.is_lost(Removed(path=PHONE, interfaces=(DEVICE,)), PHONE)
    assert bluez.is_lost(Owner(is_running=True), PHONE)
    assert not bluez.is_lost(Changed(path=PHONE, interface=DEVICE, properties={"Connected": True}), PHONE)
    assert not bluez.is_lost(Changed(path=HCI0, interface=DEVICE, properties=disconnected), PHONE)
    assert not bluez.is_lost(Removed(path=PHONE, interfaces=("org.bluez.Battery1",)), PHONE)


def connecting(*said, answer_s=None):
    """Connect while bluetoothd says some properties of the phone, each after so many seconds; return what came of it.

    ``answer_s``: when it answers the call itself.
    """

    async def scenario():
        loop = asyncio.get_running_loop()
        connection = Bluez(bus=None)
        connection._on_message(owner_changed(BLUETOOTHD))
        linked = []

        async def call(*_, **__):
            await asyncio.sleep(answer_s if answer_s is not None else 1000)

        connection.call = call
        for after_s, properties in said:
            variants = {name: Variant("b", value) for name, value in properties.items()}
            message = signal(BLUETOOTHD, PHONE, PROPERTIES, "PropertiesChanged", "sa{sv}as", DEVICE, variants, [])
            loop.call_later(after_s, connection._on_message, message)
        began_s = loop.time()
        failure = None
        try:
            await connection.connect(
                PHONE, timeout_s=20, link_timeout_s=8, on_linked=lambda: linked.append(loop.time() - began_s)
            )
        except BluezError as error:
            failure = error.failure
        return failure, linked, loop.time() - began_s

    return run(scenario())


def test_who_is_not_there_is_given_up_sooner_than_who_lets_one_connect_and_does_not_answer():
    """Of false relays there are both; the first keep us from listening meanwhile, the second do not."""
    assert connecting() == (BluezFailure.TIMEOUT, [], 8.0)
    assert connecting((7.9, {"Connected": True})) == (BluezFailure.TIMEOUT, [7.9], 20.0)
    there = [(2.0, {"Connected": True}), (12.0, {"ServicesResolved": True})]
    assert connecting(*there, answer_s=12.0) == (None, [2.0], 12.0)
    lost = [(2.0, {"Connected": True}), (3.0, {"Connected": False})]
    assert connecting(*lost) == (BluezFailure.REFUSED, [2.0], 3.0)
    # One that was lost before is no link.
    assert connecting((1.0, {"Connected": False}), (2.0, {"Connected": True}), answer_s=4.0)[1] == []
