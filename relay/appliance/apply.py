# SPDX-License-Identifier: GPL-2.0-or-later
"""`relay appliance apply`: reads relay.toml from the boot partition and writes what it means to /run, at each start."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import tomllib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from relay.appliance.check import Checked, check
from relay.appliance.closed import says_of_secret
from relay.appliance.constants import BOOT_CONFIG, ERASURE, NETWORKD, OUTPUT, STORE_WHEN_OPEN
from relay.appliance.effective import on_partition
from relay.appliance.plan import PRIVATE, PUBLIC, WAITING, make_plan, mistake, safe_plan
from relay.config.file import MAX_CONFIG_BYTES, ConfigError, Problem
from relay.config.regulatory import barred_channels
from relay.config.textfile import decode_text
from relay.config.toml_write import write_toml
from relay.control.notices import NOTICES, Notice, NoticeCode, encode_notices, read_notices
from relay.core.errors import RelayError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from relay.appliance.data_state import DataState
    from relay.appliance.plan import Facts, Plan

#: The card is there when the kernel is; a card reader on USB takes a few seconds.
DEVICE_TIMEOUT_S = 10.0
_POLL_S = 0.2
_MOUNT_TIMEOUT_S = 30
#: Names listed of a drive on which people leave other things.
_MAX_LISTED = 4


class BootPartitionError(RelayError):
    """The boot partition is not there or cannot be read; the message has the remedy."""


@contextmanager
def mounted(device: Path, *, writable: bool = False) -> Iterator[Path]:
    """Mount the FAT file system on ``device`` for as long as it is needed; raise BootPartitionError.

    Otherwise it is not mounted at all: a plug that is pulled finds it clean.
    """
    # Not a temporary name: what a killed process left mounted is found by the next one.
    where = Path("/run/mesh-relay-boot")
    where.mkdir(mode=0o700, exist_ok=True)
    options = "nosuid,nodev,noexec,noatime"
    # Where the shelf is mounted (relay-shelf.service), this is the same file system, and one that is read-only is not
    # mounted otherwise; but it can be made writable for a while.
    _run("mount", "-t", "vfat", "-o", f"ro,{options},fmask=0177,dmask=0077", str(device), str(where))
    try:
        if writable:
            _run("mount", "-o", f"remount,rw,{options}", str(where))
        yield where
    finally:
        if writable:
            _run("mount", "-o", f"remount,ro,{options}", str(where))
        _run("umount", str(where))


def _run(*command: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=_MOUNT_TIMEOUT_S)  # noqa: S603 - fixed words
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode(errors="replace").strip().splitlines()
        raise BootPartitionError(
            f"{' '.join(command)}: {reason[-1] if reason else error.returncode}; "
            "look the card over on a computer, or write it anew"
        ) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BootPartitionError(f"{command[0]}: {error}; is util-linux installed?") from error


def wait_for(device: Path) -> None:
    """Return once there is such a device; raise BootPartitionError after DEVICE_TIMEOUT_S."""
    until = time.monotonic() + DEVICE_TIMEOUT_S
    while not device.exists():
        if time.monotonic() > until:
            raise BootPartitionError(f"there is no {device}: the card has no drive MESH-RELAY; write it anew")
        time.sleep(_POLL_S)


def read_plan(folder: Path, facts: Facts) -> Plan:
    """The plan for the relay.toml in ``folder``; a missing one means the defaults, a bad one is told in the plan."""
    path = folder / BOOT_CONFIG
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_CONFIG_BYTES + 1)
    except FileNotFoundError:
        others = tuple(_misnamed(folder))
        if facts.was_closed:
            problem = Problem(line=0, message="it is gone; put it back, or one that says what the mesh is to be")
            return safe_plan(ConfigError(path, [problem]), facts, others, raw=b"")
        return make_plan(Checked(), facts, others)
    except OSError as error:
        problem = Problem(line=0, message=f"cannot be read: {error.strerror}; write the card anew")
        return safe_plan(ConfigError(path, [problem]), facts, raw=None)
    others = tuple(_misnamed(folder))
    try:
        checked = check(raw, path)
        if facts.was_closed:
            _require_word(checked, path)
        barred = tuple(map(mistake, barred_channels(checked.config, decode_text(raw))))
        return make_plan(checked, facts, barred + others)
    except ConfigError as error:
        return safe_plan(error, facts, others, raw=raw)
    except Exception as error:  # noqa: BLE001 - a mistake of ours must not keep the relay from what is safe
        problem = Problem(line=0, message=f"this version cannot read it ({type(error).__name__}); tell its makers")
        return safe_plan(ConfigError(path, [problem]), facts, others, raw=raw)


def _require_word(checked: Checked, path: Path) -> None:
    """Raise ConfigError unless the file says whether there is a secret: it may be the beginning of one that did."""
    if not says_of_secret(checked.document):
        remedy = 'Write mesh_secret as before, or mesh_secret = "" below [appliance] to open the mesh'
        message = (
            f"the mesh had a secret, and nothing here says whether it still has one: was the file cut off? {remedy}"
        )
        raise ConfigError(path, [Problem(line=0, message=message)])


def unreadable_plan(error: BootPartitionError, facts: Facts) -> Plan:
    """The plan when there is no boot partition to read."""
    return safe_plan(ConfigError(Path(BOOT_CONFIG), [Problem(line=0, message=str(error))]), facts, raw=None)


def empty_plan(facts: Facts) -> Plan:
    """The plan of a new relay, whatever there is on the card."""
    return make_plan(Checked(), facts)


def read_erasure(root: Path) -> tuple[str, ...] | None:
    """What resisted an erase with which this start went on; None where there was none. ``root``: as of write_plan."""
    try:
        return tuple((root / ERASURE.relative_to("/")).read_text(encoding="utf-8").splitlines())
    except OSError:
        return None


def _misnamed(folder: Path) -> Iterator[Notice]:
    """Files that were meant to be relay.toml: Windows hides the end of a name, browsers add a number."""
    names = sorted(
        path.name
        for path in folder.iterdir()
        if path.name.lower() != BOOT_CONFIG and path.name.lower().startswith("relay") and ".toml" in path.name.lower()
    )
    for name in names[:_MAX_LISTED]:
        yield Notice(
            code=NoticeCode.HINT, text=f"{name} is not read; if it is the one you mean, name it {BOOT_CONFIG}."
        )


def size_of(partition: Path) -> int:
    """Bytes of the file system that is mounted at ``partition``; 0 if none is."""
    if not partition.is_mount():
        return 0
    found = os.statvfs(partition)
    return found.f_blocks * found.f_frsize


def write_plan(plan: Plan, root: Path) -> None:
    """Write the files below ``root`` ("/" on the appliance) and remove those of an earlier plan."""
    wanted = {root / file.path.relative_to("/"): file for file in plan.files}
    output = root / OUTPUT.relative_to("/")
    networkd = root / NETWORKD.relative_to("/")
    for folder in (output, networkd):
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    for old in (*output.iterdir(), *networkd.glob("*-relay-*")):
        if old not in wanted:
            old.unlink()
    for path, file in wanted.items():
        _replace(path, file.content, file.mode)


def _replace(path: Path, content: bytes, mode: int) -> None:
    fresh = path.with_name(f".{path.name}.new")
    # Made anew with its permissions: nobody opens a secret before they are set.
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as opened:
        os.fchmod(opened.fileno(), mode)
        opened.write(content)
    fresh.rename(path)


def use_opened(data: DataState, root: Path = Path("/")) -> None:
    """Have the relay's next start use the partition that was opened since this start wrote its files."""
    output = root / OUTPUT.relative_to("/")
    waiting = output / STORE_WHEN_OPEN.name
    settings = output / "relay.toml"
    notices = root / NOTICES[0].relative_to("/")
    store = on_partition(json.loads(waiting.read_text()), data.size_bytes)
    if store is None:
        return
    document = tomllib.loads(settings.read_text(encoding="utf-8")) | {"store": store}
    left = [notice for notice in read_notices([notices]) if notice.text not in WAITING]
    _replace(settings, write_toml(document).encode(), PRIVATE)
    _replace(notices, encode_notices(left), PUBLIC)
    waiting.unlink()


def set_hostname(name: str) -> None:
    """Name this machine until it is switched off."""
    socket.sethostname(name)
