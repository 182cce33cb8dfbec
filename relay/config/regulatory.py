# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's database of what each country allows on the air (net/wireless/reg.c; Debian's wireless-regdb).

For a machine that only looks a configuration over. Where the radios are, `relay net` asks
the kernel itself, which also knows what each of them can do.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from relay.config import toml_lines
from relay.config.file import Problem
from relay.config.net import RadioConfig, frequency_of
from relay.core.errors import DecodeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from relay.config.file import Config

PATHS: Final = (Path("/lib/firmware/regulatory.db"), Path("/usr/lib/firmware/regulatory.db"))
#: It has 5 KiB.
MAX_BYTES: Final = 1 << 20
_MAGIC, _VERSION = b"RGDB", 20
#: struct fwdb_country, fwdb_collection and fwdb_rule; offsets are in units of four bytes, frequencies in kHz.
_COUNTRY: Final = struct.Struct(">2sH")
_COLLECTION: Final = struct.Struct(">BB")
_RULE: Final = struct.Struct(">BBHIII")
#: FWDB_FLAG_NO_OFDM, FWDB_FLAG_DFS and FWDB_FLAG_NO_IR: for 802.11b alone, only after a look-out for radars, and
#: only as an answer to others.
_BARRED: Final = 0x0D
#: Half of a channel.
_HALF_KHZ: Final = 10_000
#: Those that are offered in place of one that is barred: of each band the first that radars do not share.
_COMMON: Final = (*range(1, 14), 36, 40, 44, 48, 149)
#: Of which nothing is written: the channel is that of every relay.
_OWN_MESH: Final = ("appliance", "mesh_interface")


class Regulatory:
    """The database. ``data``: regulatory.db; raise DecodeError for anything else."""

    def __init__(self, data: bytes) -> None:
        if data[:8] != _MAGIC + _VERSION.to_bytes(4, "big"):
            raise DecodeError("no regulatory.db of version 20")
        self._data = data

    def allows(self, country: str, channel: int) -> bool | None:
        """Whether somebody may begin a network of 20 MHz there; None where nothing can be read of the country."""
        try:
            ranges = self._ranges(country)
        except DecodeError:
            return None
        if ranges is None:
            return None
        khz = frequency_of(channel) * 1000
        return any(start <= khz - _HALF_KHZ and khz + _HALF_KHZ <= end for start, end in ranges)

    def _ranges(self, country: str) -> list[tuple[int, int]] | None:
        at = len(_MAGIC) + 4
        while True:
            name, collection = self._unpack(_COUNTRY, at)
            if collection == 0:
                return None
            if name == country.encode():
                return list(self._rules(4 * collection))
            at += _COUNTRY.size

    def _rules(self, at: int) -> Iterator[tuple[int, int]]:
        length, count = self._unpack(_COLLECTION, at)
        pointers = at + (length + 1 & ~1)
        for number in range(count):
            (pointer,) = self._unpack(struct.Struct(">H"), pointers + 2 * number)
            _, flags, _, start, end, _ = self._unpack(_RULE, 4 * pointer)
            if not flags & _BARRED:
                yield start, end

    def _unpack(self, what: struct.Struct, at: int) -> tuple[Any, ...]:
        if at + what.size > len(self._data):
            raise DecodeError("regulatory.db is cut off")
        return what.unpack_from(self._data, at)


def read_regulatory(paths: Iterable[Path] = PATHS) -> Regulatory | None:
    """The database of this machine, None if it has none that can be read."""
    for path in paths:
        try:
            with path.open("rb") as file:
                return Regulatory(file.read(MAX_BYTES))
        except (OSError, DecodeError):
            continue
    return None


def barred_channels(config: Config, text: str, rules: Regulatory | None = None) -> list[Problem]:
    """Channels of ``text``, which ``config`` was read from, that the country does not allow, and what would work.

    ``rules``: this machine's where they are not given; without any nothing is found.
    """
    rules = rules or read_regulatory()
    country = config.appliance.country or config.net.country
    if rules is None or not country:
        return []
    lines = toml_lines.locate(text)
    usable = [str(channel) for channel in _COMMON if rules.allows(country, channel)]
    return [
        Problem(
            line=toml_lines.line_of(lines, key),
            message=f"{'.'.join(key)}: channel {channel} is not allowed in {country}; {_remedy(key, usable)}",
            key=key,
        )
        for key, channel in _channels(config)
        if rules.allows(country, channel) is False
    ]


def _channels(config: Config) -> Iterator[tuple[tuple[str, ...], int]]:
    """Each channel that is to be used, and the setting that says so."""
    appliance, net = config.appliance, config.net
    for name, radio in net.radios.items():
        yield ("net", "radios", name, "channel"), radio.channel
    if appliance.country and appliance.joins_mesh and not net.radios:
        yield _OWN_MESH, RadioConfig().channel
    if net.access_point:
        yield ("net", "access_point_channel"), net.access_point_channel
    if appliance.access_point and appliance.access_point_interface:
        yield ("appliance", "access_point_channel"), appliance.access_point_channel


def _remedy(key: tuple[str, ...], usable: list[str]) -> str:
    choice = f"choose one of {', '.join(usable)}" if usable else "none is that this program knows: use no Wi-Fi there"
    if key != _OWN_MESH:
        return choice
    return f'set mesh_interface = "", or describe the radio yourself below [net.radios.NAME], and {choice}'
