# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's U-Boot, made to ask nobody anything.

As it comes it waits two seconds for a key, from a serial line or a keyboard on USB, and whoever presses one has a
prompt at which he starts what he likes; so has he when the card cannot be read. What it does is in its environment
(include/env_default.h there): names and values, each ending in a zero byte, one more zero byte at the end. It is
part of the program, and stays as long as it was. Debian's other way, a file uboot.env on the card, would have to
be whole, as U-Boot falls back to what is built in.
"""

from __future__ import annotations

from typing import Final

from image.run import BuildError

#: By what its environment is found.
_KNOWN: Final = b"\0bootdelay=2\0"
CHANGED: Final = {
    # Neither a wait nor a look at the keys (CONFIG_BOOTDELAY there).
    "bootdelay": "-2",
    # Where nothing starts it tries again, as the hardware's watchdog would have it.
    "bootcmd": "bootflow scan; reset",
    # From the card, or from USB where there is none; never from the network, on which is who wants to be.
    "boot_targets": "mmc usb",
    # No keys at all: also no Ctrl-C while a script runs.
    "stdin": "nulldev",
    # USB only if it is started from.
    "preboot": "pci enum",
}
#: For the network.
DROPPED: Final = frozenset({"dhcpuboot"})


def without_prompt(program: bytes) -> bytes:
    """U-Boot with its environment changed; raise BuildError if it is not as it was when this was written."""
    if program.count(_KNOWN) != 1:
        raise BuildError("u-boot.bin has another environment than before; change image/uboot.py")
    known = program.index(_KNOWN)
    end = program.index(b"\0\0", known)
    start = known
    while _is_entry(entry := program[program.rindex(b"\0", 0, start) + 1 : start]):
        start -= len(entry) + 1
    start += 1
    values = dict(line.decode().split("=", 1) for line in program[start:end].split(b"\0"))
    if missing := (CHANGED.keys() | DROPPED) - values.keys():
        raise BuildError(f"u-boot.bin has no {', '.join(sorted(missing))} in its environment; change image/uboot.py")
    kept = {name: value for name, value in (values | CHANGED).items() if name not in DROPPED}
    made = b"".join(f"{name}={value}\0".encode() for name, value in kept.items())
    room = end + 1 - start
    if len(made) > room:
        raise BuildError("u-boot.bin has no room for its environment; drop more of it in image/uboot.py")
    return program[:start] + made.ljust(room, b"\0") + program[start + room :]


def _is_entry(text: bytes) -> bool:
    return text.isascii() and text.decode("latin-1").isprintable() and text.find(b"=") > 0
