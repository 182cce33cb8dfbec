# SPDX-License-Identifier: GPL-2.0-or-later
"""U-Boot's environment, as the image changes it. tests/image/arm64.py starts the real one, and types."""

import pytest

from image.run import BuildError
from image.uboot import CHANGED, without_prompt

VALUES = {
    "bootcmd": "bootflow scan",
    "bootdelay": "2",
    "preboot": "pci enum; usb start;",
    "usb_ignorelist": "0x1050:*,",
    "dhcpuboot": "usb start; dhcp u-boot.uimg; bootm",
    "boot_targets": "mmc usb pxe dhcp",
    "stdin": "serial,usbkbd",
    "kernel_addr_r": "0x00080000",
}


def program(values):
    """As Debian's has it: texts before and behind."""
    made = b"".join(f"{name}={value}\0".encode() for name, value in values.items())
    return b"\x7fcode\0cyclic - list functions\n\0" + made + b"\0\0\0" + b"0123456789\0disabled\0"


def test_it_asks_nobody_and_stays_as_long_as_it_was():
    old = program(VALUES)
    new = without_prompt(old)
    assert len(new) == len(old)
    known = b"".join(f"{name}={value}\0".encode() for name, value in (VALUES | CHANGED).items() if name != "dhcpuboot")
    start = old.index(b"bootcmd=")
    assert new.startswith(old[:start] + known + b"\0")
    rest = new[start + len(known) :]
    assert rest.lstrip(b"\0") == b"0123456789\0disabled\0"


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (VALUES | {"bootdelay": "0"}, "another environment"),
        ({name: value for name, value in VALUES.items() if name != "stdin"}, "no stdin"),
        (VALUES | {"dhcpuboot": "", "preboot": "", "boot_targets": ""}, "no room"),
    ],
)
def test_another_u_boot_than_it_was_written_for_makes_no_image(values, why):
    with pytest.raises(BuildError, match=why):
        without_prompt(program(values))
