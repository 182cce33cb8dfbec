# SPDX-License-Identifier: GPL-2.0-or-later
"""`relay appliance unlock`: the LUKS volume of storage = "durable", made once and opened after each start, as root.

The passphrase comes by a socket (relay-unlock.socket), from an operator who has logged in or from a stick that
`relay stick` reads (relay.process.unlock_request). It goes to cryptsetup by a pipe, and nothing of it is in an
argument, a file or a log line.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from relay.appliance import apply
from relay.appliance.constants import DATA
from relay.appliance.data_state import DataState, Trouble, read_state, write_state
from relay.board import data, mapping
from relay.board.card import AMNESIC, BLANK, DATA_PARTITION, SECTOR_BYTES, find_card
from relay.board.device import Device, Part
from relay.board.ext4 import LUKS_HEADER_BYTES, is_ext4
from relay.config.passwords import why_no_passphrase
from relay.core.errors import RelayError
from relay.process.unlock_request import MAX_SECRET_BYTES, OpeningError

if TYPE_CHECKING:
    from typing import BinaryIO

logger = logging.getLogger(__name__)

_LOCK: Final = Path("/run/mesh-relay-data/opening")
_HEADER: Final = _LOCK.with_name("header")
#: Of the first header; the second is as long, and the keys come behind both.
_FIRST_BYTES: Final = 4096

#: Argon2id (RFC 9106) in as much memory as a board of 512 MiB can spare beside the relay, and passes to take about two
#: seconds there. Given, not measured: what cryptsetup measures depends on what else the board does at that moment.
_COST: Final = ("--pbkdf", "argon2id", "--pbkdf-memory", "65536", "--pbkdf-force-iterations", "8")
_LUKS2: Final = ("--type", "luks2", "--batch-mode", "--key-file", "-")
#: cryptsetup(8), RETURN CODES.
_NO_PERMISSION: Final = 2


def open_store(secret: bytes) -> DataState:
    """Make the volume if there is none yet, open and mount it, and have the relay use it; raise OpeningError.

    One at a time, whoever asks.
    """
    with _LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _open_store(secret)


def _open_store(secret: bytes) -> DataState:
    state = read_state()
    if state.trouble not in {Trouble.LOCKED, Trouble.UNMADE}:
        raise OpeningError("there is nothing to open: see `relay status`")
    if not secret or len(secret) > MAX_SECRET_BYTES:
        raise OpeningError(f"a passphrase has {MAX_SECRET_BYTES} bytes at most, and one at least")
    if state.trouble is Trouble.UNMADE and (why := why_no_passphrase(secret.decode(errors="replace"))):
        raise OpeningError(why)
    card = find_card()
    device = None if card is None else data.node(card, DATA_PARTITION)
    if card is None or card.data is None or device is None:
        raise OpeningError("the card has no partition for data: write it anew, or use a larger one")
    try:
        kept = data.what_is_kept(card.data)
        if state.trouble is Trouble.UNMADE and kept not in {data.Kept.NOTHING, data.Kept.AMNESIC}:
            raise OpeningError("the card holds something else by now: start again, and see `relay status`")
        if state.trouble is Trouble.UNMADE:
            _make(device, card.data, secret)
        # In the kernel's keyring it would be once more, for a panic to find.
        opening = ("open", *_LUKS2, "--disable-keyring", str(device), mapping.NAME)
        _cryptsetup(*opening, secret=secret)
        mapped = Path("/dev/mapper", mapping.NAME)
        with Device(Part(path=mapped)) as opened:
            is_made = is_ext4(opened)
        data.use(mapped, (data.STORE,), is_made=is_made)
    except (OSError, subprocess.SubprocessError) as error:
        raise OpeningError(f"the card does not take it ({error}); write it anew, or use another") from error
    opened_state = DataState(size_bytes=apply.size_of(DATA), was_closed=state.was_closed)
    write_state(opened_state)
    apply.use_opened(opened_state)
    # What it had in memory was acknowledged as volatile, and its senders have it still.
    subprocess.run(["systemctl", "restart", "--no-block", "mesh-relay.service"], check=False)  # noqa: S607 - fixed words
    return opened_state


def _make(device: Path, part: Part, secret: bytes) -> None:
    """Make the volume; raise OSError or OpeningError.

    cryptsetup writes a header in many pieces, and one that the power failed in is neither nothing nor a volume: nobody
    could ever open it. So it is made in memory, and its first sectors are the last to get to the card: until then it
    says what it said before, and from then on the second header, which is there, stands in for a first that is torn.
    """
    cipher, key_bytes = mapping.best_cipher(Path("/proc/cpuinfo").read_text())
    how = ("--cipher", cipher, "--key-size", str(8 * key_bytes), "--sector-size", "4096", "--hash", "sha256")
    where = ("--header", str(_HEADER), "--offset", str(LUKS_HEADER_BYTES // SECTOR_BYTES))
    try:
        with os.fdopen(os.open(_HEADER, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.truncate(LUKS_HEADER_BYTES)
        _cryptsetup("luksFormat", *_LUKS2, *_COST, *how, *where, str(device), secret=secret)
        header = _HEADER.read_bytes()
    finally:
        _HEADER.unlink(missing_ok=True)
    with Device(part) as opened:
        if opened.read(0, SECTOR_BYTES) not in {BLANK, AMNESIC}:
            opened.write(0, BLANK)
            opened.sync()
        for start, end in ((_FIRST_BYTES, LUKS_HEADER_BYTES), (0, _FIRST_BYTES)):
            opened.write(start, header[start:end])
            opened.sync()


def answer(asked: BinaryIO, told: BinaryIO) -> None:
    """Serve one who asks: what he sends, up to its end, is the passphrase; one line goes back, "" or what is wrong."""
    try:
        open_store(asked.read(MAX_SECRET_BYTES + 1))
        said = ""
    except RelayError as error:
        said = str(error)
    # Who has gone meanwhile needs no answer.
    with suppress(OSError):
        told.write(json.dumps(said).encode() + b"\n")
        told.flush()


def _cryptsetup(*words: str, secret: bytes) -> None:
    """Raise OpeningError where the passphrase is not the one."""
    done = subprocess.run(["cryptsetup", *words], input=secret, capture_output=True, check=False)  # noqa: S603, S607 - fixed words
    if done.returncode == _NO_PERMISSION:
        raise OpeningError("that is not its passphrase")
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise OpeningError(
            f"cryptsetup {words[0]}: {said[-1] if said else done.returncode}; see the log, or use another card"
        )
