# SPDX-License-Identifier: GPL-2.0-or-later
"""What the build asks the device trees: whether each part of a board that a relay needs has a driver."""

import lzma
import struct

import pytest

from image.boards import Drivers, assert_drivers
from image.devicetree import read
from image.run import BuildError

GPIO, SUPPLY, CLOCK, PINS, GONE, LINES = range(1, 7)
BOARD = {
    "compatible": ["acme,board"],
    "supply": {"compatible": ["acme,supply"], "phandle": [SUPPLY], "gpios": [GPIO, 7, 1]},
    "clock": {"compatible": ["acme,clock"], "phandle": [CLOCK], "#clock-cells": [1]},
    "gone": {"compatible": ["acme,gone"], "phandle": [GONE], "status": ["disabled"], "#clock-cells": [0]},
    "soc": {
        "compatible": ["acme,bus"],
        "gpio@1": {"compatible": ["acme,gpio-2", "acme,gpio"], "phandle": [GPIO], "#gpio-cells": [2]},
        "pinctrl": {"compatible": ["acme,pins"], "card-pins": {"phandle": [PINS]}},
        "mmc@2": {
            "compatible": ["acme,card"],
            "vmmc-supply": [SUPPLY],
            "clocks": [GONE, CLOCK, 4],
            "pinctrl-0": [PINS],
        },
        "mmc@3": {"compatible": ["acme,card"], "wifi@1": {"compatible": ["acme,radio"]}},
        "serial@7": {"compatible": ["acme,gpio"], "bluetooth": {"compatible": ["acme,gpio"]}},
        "leds": {"compatible": ["gpio-leds"], "led-act": {"gpios": [LINES, 9, 1]}},
        "lines": {"compatible": ["acme,lines"], "phandle": [LINES], "#gpio-cells": [2]},
        "watchdog@4": {"compatible": ["brcm,bcm2835-pm-wdt"]},
        "usb@5": {
            "compatible": ["acme,usb"],
            "usb@1": {"compatible": ["usb424,9514"], "ethernet@1": {"compatible": ["usb424,ec00"]}},
        },
        "unknown@6": {"compatible": ["acme,unknown"]},
    },
}
MODULES = {
    "of:N*T*Cacme,supply": "supply",
    "of:N*T*Cacme,gpio": "gpio",
    "of:N*T*Cacme,pins": "pins",
    "of:N*T*Cacme,card": "card",
    "of:N*T*Cacme,usb": "usb",
    "of:N*T*Cgpio-leds": "leds",
    "of:N*T*Cacme,lines": "lines",
    "platform:bcm2835-wdt": "watchdog",
    "usb:v0424pEC00d*dc*dsc*dp*ic*isc*ip*in*": "cable",
    "sdio:c*v02D0dA9A6*": "radio",
    "sdio:c*v0001d0001*": "other",
}
INITRD = {"card", "gpio", "pins", "supply"}


def flatten(tree):
    """A device tree as the kernel's package has them."""
    names = b""

    def add(name, node):
        nonlocal names
        out = struct.pack(">I", 1) + padded(name.encode() + b"\0")
        for key, value in node.items():
            if isinstance(value, dict):
                out += add(key, value)
                continue
            numbers = all(isinstance(item, int) for item in value)
            data = (
                struct.pack(f">{len(value)}I", *value) if numbers else "".join(f"{item}\0" for item in value).encode()
            )
            out += struct.pack(">3I", 3, len(data), len(names)) + padded(data)
            names += key.encode() + b"\0"
        return out + struct.pack(">I", 2)

    body = add("", tree) + struct.pack(">I", 9)
    return struct.pack(">10I", 0xD00DFEED, 40 + len(body) + len(names), 40, 40 + len(body), *[0] * 6) + body + names


def padded(data):
    return data + b"\0" * (-len(data) % 4)


@pytest.fixture
def check(tmp_path):
    def run(board=BOARD, modules=MODULES, initrd=INITRD):
        (tmp_path / "board.dtb").write_bytes(flatten(board))
        (tmp_path / "modules.alias").write_text(
            "# Aliases\n" + "".join(f"alias {alias} {module}\n" for alias, module in modules.items())
        )
        (tmp_path / "modules.builtin.modinfo").write_bytes(b"pm.alias=of:N*T*Cbrcm,bcm2835-pm-wdt\0pm.license=GPL\0")
        (tmp_path / "vmlinuz").write_bytes(b"code\0acme,clock\0\0\0acme,bus\0not-acme,unknown\0code")
        folder = tmp_path / "kernel/drivers"
        folder.mkdir(parents=True)
        for name in ("radio", "other"):
            (folder / f"{name}.ko.xz").write_bytes(lzma.compress(f"acme,{name}\0".encode()))
        assert_drivers([tmp_path / "board.dtb"], Drivers.of(tmp_path), initrd)

    return run


def test_a_board_whose_parts_all_have_drivers_passes(check):
    check()


@pytest.mark.parametrize("module", sorted(INITRD))
def test_what_the_card_hangs_on_has_to_be_in_the_initrd(check, module):
    with pytest.raises(BuildError, match=rf"board.dtb: card needs /.*{module} is not in MODULES of image/initrd.py"):
        check(initrd=INITRD - {module})


@pytest.mark.parametrize("alias", sorted(MODULES.keys() - {"sdio:c*v0001d0001*"}))
def test_a_part_without_a_driver_is_named(check, alias):
    with pytest.raises(BuildError, match="and nothing"):
        check(modules={name: module for name, module in MODULES.items() if name != alias})


def test_a_name_within_another_is_no_driver(check):
    board = BOARD | {"ethernet": {"compatible": ["acme,unknown"]}}
    with pytest.raises(BuildError, match=r"ethernet needs /ethernet \(acme,unknown\), and nothing drives that"):
        check(board=board)


def test_what_is_switched_off_needs_none(check):
    check(board=BOARD | {"ethernet": {"compatible": ["acme,unknown"], "status": ["disabled"]}})


@pytest.mark.parametrize(("part", "name"), [("leds", "light"), ("serial@7", "bluetooth"), ("usb@5", "usb")])
def test_a_tree_that_leaves_a_part_out_is_named(check, part, name):
    soc = {key: value for key, value in BOARD["soc"].items() if key != part}
    with pytest.raises(BuildError, match=f"board.dtb: in the tree is no {name}"):
        check(board=BOARD | {"soc": soc})


def test_a_tree_is_read_as_it_was_written():
    tree = read(flatten(BOARD))
    card = next(node for node in tree.walk() if node.path == "/soc/mmc@2")
    assert (card.kind, card.compatible, card.enabled) == ("mmc", ["acme,card"], True)
    assert card.cells("clocks") == [GONE, CLOCK, 4]
    assert [node.path for node in card.up()] == ["/soc/mmc@2", "/soc", "/"]


def test_half_a_tree_is_refused():
    blob = flatten(BOARD)
    for end in range(0, blob.index(b"acme,unknown"), 7):
        with pytest.raises(BuildError, match="not a device tree"):
            read(blob[:end])
    with pytest.raises(BuildError, match="not a device tree"):
        read(b"\0" * 64)
