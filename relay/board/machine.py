# SPDX-License-Identifier: GPL-2.0-or-later
"""What the board does to the machine: stops services, erases, switches off, writes to the boot partition. Blocking."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import logging
import os
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from relay.appliance.apply import mounted
from relay.appliance.constants import BOOT_STATUS, DATA, OUTPUT
from relay.board import mapping, panic
from relay.board.card import find_card
from relay.board.device import Part
from relay.board.erase import erase_files, erase_folders, erase_secrets, shut_down

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relay.board.card import Card
    from relay.board.fat import Own

logger = logging.getLogger(__name__)

#: Whatever has the store or a key in its memory.
UNITS: Final = (
    "mesh-relay.service",
    "relay-ble.service",
    "relay-bitchat.service",
    "relay-libp2p.service",
    "relay-net.service",
)
#: Where systemd puts the store of mesh-relay.service, with and without a user of its own, and in memory.
STORES: Final = (
    Path("/var/lib/private/mesh-relay"),
    Path("/var/lib/mesh-relay"),
    Path("/var/cache/private/mesh-relay"),
    Path("/var/cache/mesh-relay"),
)
#: Where the settings of a machine are that is no appliance; on one these are links to OUTPUT.
SETTINGS: Final = Path("/etc/mesh-relay")
#: Where ssh.service has its key made (ansible/roles/hardening).
HOST_KEY_FILE: Final = Path("/var/lib/mesh-relay-ssh/ssh_host_ed25519_key.pub")
#: The mark that an erase began, where there is no relay's card to put it on.
MARK_FILE: Final = Path("/var/lib/mesh-relay-erasing")
_SYSTEMCTL_TIMEOUT_S: Final = 8
#: Somebody may be writing relay-status.txt on a slow card.
_WRITING_TIMEOUT_S: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The machine; ``boot_device`` None: there is no boot partition (a machine that is not only a relay)."""

    boot_device: Path | None
    stores: tuple[Path, ...] = STORES
    #: Files and folders with secrets, where there are such.
    settings: tuple[Path, ...] = (SETTINGS,)
    mark_file: Path = MARK_FILE
    host_key_file: Path = HOST_KEY_FILE
    _writing: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _ended: threading.Event = field(default_factory=threading.Event, repr=False)

    def erase(self) -> tuple[str, ...]:
        """Destroy keys, settings, store and whatever else is not the image's own; return what resisted, in words."""
        began = time.monotonic()
        is_forgotten = panic.forget_key()
        card = find_card(self.boot_device)
        if not (self._mark() if card is None else card.mark()):
            logger.error("that an erase began cannot be written down: if it is interrupted, the next start forgets it")
        own = panic.read_own(card)
        # Not asked to end: the store would tidy up, and remove its log where we could write
        # over it. Nobody waits for it here.
        killing = _systemctl_begin("kill", "--signal=SIGKILL", *UNITS)
        keys_gone = card is None or panic.destroy_keys(card, is_forgotten)
        logger.warning("the key is gone after %.2f s", time.monotonic() - began)
        drive = None if self.boot_device is None else Part(path=self.boot_device)
        if card is not None:
            drive = card.boot
        if drive is not None:
            panic.erase_small(drive, own)
        raw = card is not None and card.data is not None
        # What is on the card's partition for data is met again, and counted then.
        others = [folder for folder in self.stores if not raw or not _is_on(folder, DATA)]
        kept = erase_secrets([DATA])
        files = erase_secrets([*others, OUTPUT]) + erase_files(_settings(self.settings)) + (0 if raw else kept)
        logger.warning("keys and settings are gone after %.2f s", time.monotonic() - began)
        _systemctl_end(killing)
        # Systemd starts them again after two seconds, if it is not told to stop.
        _systemctl("stop", *UNITS)
        files += erase_folders([*others, OUTPUT, *([DATA] if not raw and DATA.is_mount() else [])])
        self._ended.set()
        # Somebody may be writing relay-status.txt; who comes later sees that there is nothing to be written any more.
        free = self._writing.acquire(timeout=_WRITING_TIMEOUT_S)
        try:
            left = [panic.FILES] if files else []
            left += [] if keys_gone else [panic.KEY]
            left += self._erase_devices(card, own, drive, complete=not left)
        finally:
            if free:
                self._writing.release()
        if card is None and not left:
            self.mark_file.unlink(missing_ok=True)
        return tuple(dict.fromkeys(left))

    def _erase_devices(self, card: Card | None, own: Own, drive: Part | None, *, complete: bool) -> tuple[str, ...]:
        if card is not None:
            # What is in memory of it goes to the card, and with it which blocks were used.
            os.sync()
            is_shut = card.data is None or mapping.is_destroyed() or not DATA.is_mount() or shut_down(DATA)
            left = panic.erase_rest(card, own, complete=complete and is_shut)
            return left if is_shut else (panic.DATA, *left)
        if drive is not None:
            return () if panic.erase_drive(drive, own) else (panic.DRIVE,)
        # An appliance has one somewhere.
        return (panic.DRIVE,) if OUTPUT.exists() else ()

    def is_unfinished(self) -> bool:
        """Whether an erase was interrupted on a machine that has no relay's card."""
        return self.mark_file.exists()

    def _mark(self) -> bool:
        try:
            self.mark_file.touch()
            folder = os.open(self.mark_file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError:
            return False
        return True

    def power_off(self, *, force: bool = False) -> None:
        """Switch off; ``force``: without waiting for services to stop."""
        _systemctl("poweroff", *(["--force"] if force else []))

    def host_key(self) -> str:
        """Fingerprint of the key by which SSH knows this box, as clients show it; "" where nobody can log in."""
        try:
            blob = base64.b64decode(self.host_key_file.read_text(encoding="ascii").split()[1])
        except (OSError, ValueError, IndexError):
            return ""
        return f"SHA256:{base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip('=')}"

    def write_status(self, text: bytes) -> bool:
        """Have ``text`` in relay-status.txt; return whether it was not there. Raise BootPartitionError or OSError."""
        if self.boot_device is None:
            return False
        with self._writing:
            return not self._ended.is_set() and self._write_status(self.boot_device, text)

    @staticmethod
    def _write_status(device: Path, text: bytes) -> bool:
        with mounted(device) as folder, contextlib.suppress(FileNotFoundError):
            if (folder / BOOT_STATUS).read_bytes() == text:
                return False
        with mounted(device, writable=True) as folder:
            # FAT has no atomic renaming; but old or new name, one of them is whole.
            fresh = folder / f"{BOOT_STATUS}.new"
            with fresh.open("wb") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(folder / BOOT_STATUS)
        return True


def _settings(places: Sequence[Path]) -> list[Path]:
    """Files with secrets; on an appliance they are links to what is erased anyway, on a root that nobody can write."""
    found = [path for place in places for path in (place.iterdir() if place.is_dir() else [place])]
    return [path for path in found if path.is_file() and not path.is_symlink()]


def _is_on(folder: Path, mount: Path) -> bool:
    """Whether it is in the file system at ``mount``, by whatever name."""
    try:
        return mount.is_mount() and folder.stat().st_dev == mount.stat().st_dev
    except OSError:
        return False


def _systemctl_begin(*arguments: str) -> subprocess.Popen[bytes] | None:
    try:
        return subprocess.Popen(["systemctl", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603, S607 - fixed words
    except OSError as error:
        logger.warning("systemctl %s failed (%s)", arguments[0], type(error).__name__)
        return None


def _systemctl_end(begun: subprocess.Popen[bytes] | None) -> None:
    if begun is None:
        return
    try:
        begun.wait(_SYSTEMCTL_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        begun.kill()
        begun.wait()


def _systemctl(*arguments: str) -> None:
    """Ask systemd; what it refuses is no reason to stop here."""
    try:
        subprocess.run(["systemctl", *arguments], check=True, capture_output=True, timeout=_SYSTEMCTL_TIMEOUT_S)  # noqa: S603, S607 - fixed words
    except (OSError, subprocess.SubprocessError) as error:
        logger.warning("systemctl %s failed (%s)", arguments[0], type(error).__name__)
