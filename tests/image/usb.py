# SPDX-License-Identifier: GPL-2.0-or-later
"""Devices on the USB of a booted image: made by the guest's own kernel (USB gadget, dummy_hcd), plugged in and out."""

from __future__ import annotations

import os
import shutil

from tests.fat32 import Fat32

#: Of the guest's kernel: so many sockets to plug something into.
SOCKETS = 3
ARGUMENTS = (f"dummy_hcd.num={SOCKETS}",)
#: A keyboard with any of the 255 keys of its page (USB HID Usage Tables, 10), one at a time, as a report of one byte.
KEYBOARD = bytes.fromhex("05010906a1010507190029ff150026ff00750895018100c0")
KEY_POWER = 0x66

_MAKE = r"""
cd /sys/kernel/config/usb_gadget
mkdir {name}; cd {name}
echo 0x1d6b >idVendor; echo 0x0104 >idProduct
mkdir configs/c.1
{functions}
"""
_STORAGE = r"""
mkdir functions/mass_storage.0
for number in {numbers}; do
    lun=functions/mass_storage.0/lun.$number
    [ -d $lun ] || mkdir $lun
    echo 1 >$lun/removable
    echo /run/lab/{name}-$number.img >$lun/file
done
ln -s functions/mass_storage.0 configs/c.1/
"""
_KEYBOARD = r"""
mkdir functions/hid.0
echo 1 >functions/hid.0/report_length
printf '{descriptor}' >functions/hid.0/report_desc
ln -s functions/hid.0 configs/c.1/
"""
_NETWORK = r"""
mkdir functions/ecm.0
echo 00:11:22:33:44:55 >functions/ecm.0/host_addr
ln -s functions/ecm.0 configs/c.1/
"""


class Stick:
    """The file of a FAT stick: one partition, as they are sold."""

    def __init__(self, path, files, *, clusters=8000, label=b"STICK"):
        self.path = path
        start = 2048 * 512
        path.write_bytes(b"")
        os.truncate(path, start + 16 * 1024 * 1024)
        fat = Fat32(path, clusters, offset=start, label=label)
        for name, data in files.items():
            fat.write(name, data)
        table = bytearray(512)
        table[446:462] = (
            bytes.fromhex("00000000 0c000000") + (2048).to_bytes(4, "little") + (32768).to_bytes(4, "little")
        )
        table[510:] = b"\x55\xaa"
        with path.open("r+b") as file:
            file.write(table)


class Device:
    """One, plugged into ``socket``; ``disks``: files on this machine, each copied to :meth:`disk` of its number."""

    def __init__(self, appliance, name, *, socket=0, disks=(), keyboard=False, network=False):
        self._appliance = appliance
        self._name = name
        functions = ""
        for number, disk in enumerate(disks):
            # Where the guest sees it, as /run/lab; it is the same file, so that what the guest writes is seen here.
            shutil.copyfile(disk, self.disk(number))
        if disks:
            numbers = " ".join(map(str, range(len(disks))))
            functions += _STORAGE.format(numbers=numbers, name=name)
        if keyboard:
            functions += _KEYBOARD.format(descriptor="".join(f"\\x{byte:02x}" for byte in KEYBOARD))
        if network:
            functions += _NETWORK
        appliance.sh(_MAKE.format(name=name, functions=functions))
        self._socket = socket
        self.plug()

    def disk(self, number=0):
        return self._appliance.folder / f"{self._name}-{number}.img"

    def plug(self):
        """Into its socket; done as it is made."""
        self._appliance.sh(f"echo dummy_udc.{self._socket} >/sys/kernel/config/usb_gadget/{self._name}/UDC")

    def unplug(self):
        """Pull it out, whatever is going on."""
        self._appliance.sh(f"echo >/sys/kernel/config/usb_gadget/{self._name}/UDC")

    def press(self, key, *, down):
        """A key of its keyboard."""
        self._appliance.sh(f"printf '\\x{key if down else 0:02x}' >/dev/hidg0")
