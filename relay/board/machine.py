# SPDX-License-Identifier: GPL-2.0-or-later
"""What the board does to the machine: stops services, erases, switches off, writes to the boot partition. Blocking."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from relay.appliance.apply import BootPartitionError, mounted
from relay.appliance.constants import BOOT_CONFIG, BOOT_SHELF, BOOT_STATUS, OUTPUT
from relay.board.erase import OVERWRITE_S, SHELF_OVERWRITE_S, erase_files, erase_folders, erase_secrets
from relay.control.relay_report import REPORT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

logger = logging.getLogger(__name__)

#: Whatever has the store or a key in its memory.
UNITS: Final = ("mesh-relay.service", "relay-ble.service", "relay-bitchat.service", "relay-net.service")
#: Where systemd puts the store of mesh-relay.service, with and without a user of its own, and in memory.
STORES: Final = (
    Path("/var/lib/private/mesh-relay"),
    Path("/var/lib/mesh-relay"),
    Path("/var/cache/private/mesh-relay"),
    Path("/var/cache/mesh-relay"),
    # relay.appliance.constants.CLOSED_MARK, on the partition for data.
    Path("/data/appliance"),
)
_SYSTEMCTL_TIMEOUT_S: Final = 8
#: A stick whose owner wants a report: FAT, and called so. No other is touched.
STICK: Final = Path("/dev/disk/by-label/RELAY-REPORT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The machine; ``boot_device`` None: there is no boot partition (a machine that is not only a relay)."""

    boot_device: Path | None
    stores: tuple[Path, ...] = STORES
    stick_device: Path = STICK

    def erase(self) -> int:
        """Stop the services and destroy store, keys and configuration; return how many files resisted."""
        # Not asked to end: the store would tidy up, and remove its log where we could write
        # over it. Systemd starts them again after two seconds, if it is not told to stop.
        _systemctl("kill", "--signal=SIGKILL", *UNITS)
        _systemctl("stop", *UNITS)
        # Keys and secrets everywhere first, then what is encrypted, then what everybody could take.
        left = erase_secrets([*self.stores, OUTPUT], time.monotonic)
        left += self._erase_boot(_configurations, OVERWRITE_S)
        left += erase_folders([*self.stores, OUTPUT], time.monotonic)
        return left + self._erase_boot(_offered, SHELF_OVERWRITE_S)

    def _erase_boot(self, choose: Callable[[Path], Iterable[Path]], overwrite_s: float) -> int:
        if self.boot_device is None:
            return 0
        try:
            with mounted(self.boot_device, writable=True) as folder:
                return erase_files(choose(folder), time.monotonic, overwrite_s)
        except (BootPartitionError, OSError):
            return 1

    def power_off(self, *, force: bool = False) -> None:
        """Switch off; ``force``: without waiting for services to stop."""
        _systemctl("poweroff", *(["--force"] if force else []))

    def stick(self) -> tuple[int, int] | None:
        """What tells the stick that is plugged in from one that comes later: its device and when it was made."""
        if self.boot_device is None:
            return None
        try:
            found = self.stick_device.stat()
        except OSError:
            return None
        return found.st_rdev, found.st_ctime_ns

    def write_report(self, text: bytes) -> None:
        """Leave a report on the stick, in place of an earlier one; raise BootPartitionError or OSError."""
        with mounted(self.stick_device, writable=True) as folder, (folder / REPORT).open("wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    def write_status(self, text: bytes) -> bool:
        """Have ``text`` in relay-status.txt; return whether it was not there. Raise BootPartitionError or OSError."""
        if self.boot_device is None:
            return False
        with mounted(self.boot_device) as folder, contextlib.suppress(FileNotFoundError):
            if (folder / BOOT_STATUS).read_bytes() == text:
                return False
        with mounted(self.boot_device, writable=True) as folder:
            # FAT has no atomic renaming; but old or new name, one of them is whole.
            fresh = folder / f"{BOOT_STATUS}.new"
            with fresh.open("wb") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(folder / BOOT_STATUS)
        return True


def _configurations(folder: Path) -> Iterator[Path]:
    """relay.toml, and copies that editors left."""
    stem = BOOT_CONFIG.partition(".")[0]
    yield from (path for path in folder.iterdir() if path.is_file() and path.name.lower().startswith(stem))


def _offered(folder: Path) -> Iterator[Path]:
    """What was put there for participants."""
    yield from (path for path in (folder / BOOT_SHELF).rglob("*") if not path.is_dir())


def _systemctl(*arguments: str) -> None:
    """Ask systemd; what it refuses is no reason to stop here."""
    try:
        subprocess.run(["systemctl", *arguments], check=True, capture_output=True, timeout=_SYSTEMCTL_TIMEOUT_S)  # noqa: S603, S607 - fixed words
    except (OSError, subprocess.SubprocessError) as error:
        logger.warning("systemctl %s failed (%s)", arguments[0], type(error).__name__)
