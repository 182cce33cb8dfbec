# SPDX-License-Identifier: GPL-2.0-or-later
"""Values of the GATT service and the advertisement, and when address and salt change (docs/ble.md sections 2, 3)."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from relay.adapters.epoch import AFTER_S, BEFORE_S, Epoch
from relay.bluetooth import gatt
from relay.core.errors import DecodeError

NEWS = bytes(range(16))
SALT = b"\x01\x02\x03"


def test_uuids_are_those_of_the_document():
    assert gatt.SERVICE_UUID == "ab070001-cc92-439d-ad42-3677ca4805bf"
    assert gatt.INFO_UUID == "ab070002-cc92-439d-ad42-3677ca4805bf"
    assert gatt.SLOT_UUID == "ab070003-cc92-439d-ad42-3677ca4805bf"
    assert gatt.RX_UUID == "ab070004-cc92-439d-ad42-3677ca4805bf"
    assert (gatt.TX_UUIDS[0], gatt.TX_UUIDS[7]) == (
        "ab070010-cc92-439d-ad42-3677ca4805bf",
        "ab070017-cc92-439d-ad42-3677ca4805bf",
    )


def test_info_is_little_endian_and_may_grow():
    info = gatt.Info(is_busy=True, psm=0x0180, slots=8)
    assert info.encode() == bytes.fromhex("0101800108")
    assert gatt.decode_info(info.encode()) == info
    assert gatt.decode_info(info.encode() + b"more") == info
    assert gatt.decode_info(bytes.fromhex("0102800008")).is_busy  # a state that we do not know


@pytest.mark.parametrize("value", [b"", b"\1\0\x80\0", b"\2\0\x80\0\x08"])
def test_info_that_is_none(value):
    with pytest.raises(DecodeError):
        gatt.decode_info(value)


def test_who_knows_the_value_recognises_the_beacon():
    digest = hmac.new(NEWS, b"mesh-relay/1 news" + SALT, hashlib.sha256).digest()[:3]
    beacon = gatt.make_beacon(NEWS, SALT)
    assert beacon.encode() == SALT + digest
    assert gatt.decode_beacon(beacon.encode()) == beacon
    assert beacon.matches([bytes(16), NEWS])
    assert not beacon.matches([bytes(16)])
    assert not beacon.matches([])


@pytest.mark.parametrize("data", [b"", bytes(5), bytes(7)])
def test_a_beacon_that_is_none(data):
    with pytest.raises(DecodeError):
        gatt.decode_beacon(data)


def test_a_frame_fits_an_attribute_and_the_mtu():
    assert [gatt.frame_bytes(mtu) for mtu in (23, 185, 515, 517)] == [20, 182, 512, 512]


def test_there_is_silence_around_the_change_of_the_address():
    epoch = Epoch(rotation_s=900, random=lambda: 0.0)
    assert epoch.silent_at(5000.0) > 5000.0  # nothing was advertised yet: the address is still to be made
    epoch.began(100.0)
    epoch.began(500.0)  # again, after `relay run` was away: the address is no younger for it
    assert epoch.silent_at(600.0) == 1000.0 - BEFORE_S
    assert epoch.over_at(600.0) == 1000.0 + AFTER_S
