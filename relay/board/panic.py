# SPDX-License-Identifier: GPL-2.0-or-later
"""Panic on a card, below its file systems: in which order, and how the next start goes on with it. Blocking.

First a mark that it began; then the keys by which the partition for data is encrypted, with which all of it is gone;
then what lets somebody into the mesh or tells one relay from another; then what is encrypted anyway; last all of the
drive that is not the image's own. Each part can be done again from its beginning, so whoever finds the mark does all
of it.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

from relay.appliance.constants import ERASURE
from relay.board import mapping
from relay.board.card import BLANK
from relay.board.device import Device
from relay.board.ext4 import LUKS_MAGIC, ever_written
from relay.board.fat import Own, overwrite_small, put_back
from relay.board.light import PATTERNS, Code
from relay.board.sysfs import SYS, Led, find_led

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from relay.board.card import Card
    from relay.board.device import Part

logger = logging.getLogger(__name__)

#: Made with the image: what it brought along on MESH-RELAY, one `SHA-256 PATH` a line (image/booting.py), and the
#: settings of the firmware, which have to be there for a board to start, and which somebody may have edited.
SHARED: Final = Path("/usr/share/mesh-relay")
OWN_FILES: Final = "own-files"
RESTORED: Final = ("config.txt",)

#: For a card that does not answer.
KERNEL_TIMEOUT_S: Final = 2.0

#: What could not be erased, in words for whoever has to destroy the card.
DRIVE: Final = "the drive MESH-RELAY"
DATA: Final = "the partition for data"
KEY: Final = "the key of the partition for data"
FILES: Final = "some files"


def read_own(card: Card | None, folder: Path = SHARED) -> Own:
    """What the image brought along; nothing where there is no such list.

    On an updated card the root's list is that of another drive: the card's own counts.
    """
    listed = None if card is None else card.own_files()
    if listed is None:
        try:
            listed = (folder / OWN_FILES).read_text(encoding="utf-8")
        except OSError:
            return Own(digests={})
    lines = listed.splitlines()
    rows = [line.split(maxsplit=1) for line in lines]
    restored = {}
    for name in RESTORED:
        with contextlib.suppress(OSError):
            restored[name] = (folder / name).read_bytes()
    return Own(digests={row[1].lower(): row[0] for row in rows if len(row) == 2}, restored=restored)


def forget_key() -> Callable[[], bool]:
    """Have the kernel forget the key of the partition for data; return what waits for that, and says if it did.

    It costs nothing of the card, so nothing has to be written first. The kernel waits for what it has given to the card
    already: nobody waits for that longer than KERNEL_TIMEOUT_S.
    """
    gone: list[bool] = []
    asking = threading.Thread(target=lambda: gone.append(mapping.destroy()), daemon=True)
    asking.start()

    def is_forgotten() -> bool:
        asking.join(KERNEL_TIMEOUT_S)
        return gone == [True]

    return is_forgotten


def destroy_keys(card: Card, is_forgotten: Callable[[], bool] | None = None) -> bool:
    """The key of the partition for data, in the kernel and on the card; return whether none is left.

    :param is_forgotten: what :func:`forget_key` gave, where that began already
    """
    forgotten = is_forgotten or forget_key()
    on_card = card.data is None or _erase_luks_keys(card.data)
    return forgotten() and on_card


def _erase_luks_keys(data: Part) -> bool:
    try:
        with Device(data) as device:
            if not device.read(0, len(LUKS_MAGIC)).startswith(LUKS_MAGIC):
                return True
            _, *keys = ever_written(device)
            return not device.overwrite(keys)
    except OSError:
        return False


def erase_small(drive: Part, own: Own) -> None:
    """The settings on the drive, and what is left of earlier ones; what resists is met again by :func:`erase_drive`."""
    try:
        with Device(drive) as device:
            overwrite_small(device, own)
    except OSError:
        logger.warning("the drive cannot be opened")


def erase_drive(drive: Part, own: Own) -> bool:
    """All of the drive that is not the image's own; return whether nothing is left."""
    try:
        with Device(drive) as device:
            return not put_back(device, own)
    except OSError:
        return False


def erase_data(data: Part) -> bool:
    """All that was ever written to the partition for data, which nobody may use; return whether nothing is left."""
    try:
        with Device(data) as device:
            if device.read(0, len(BLANK)) == BLANK:
                return True
            first, *others = ever_written(device)
            if others:
                # By the first one the next start knows what there is: it is the last to go.
                end = first[0] + first[1]
                device.discard([(end, device.size - end)])
            left = device.overwrite(others) + device.overwrite([first])
            device.discard([(0, device.size)])
            device.write(0, BLANK)
            device.sync()
            return not left
    except OSError:
        return False


def finish(card: Card, own: Own) -> tuple[str, ...]:
    """Go on with an erase that was interrupted, before anything of the card is used; return what resists."""
    card.mark()
    destroy_keys(card)
    erase_small(card.boot, own)
    return erase_rest(card, own)


def go_on(card: Card) -> tuple[str, ...]:
    """As :func:`finish`, with the light, and what resists is left for who comes later (ERASURE)."""
    logger.warning("an erase was interrupted, and goes on")
    ERASURE.parent.mkdir(mode=0o755, exist_ok=True)
    # Should it be cut off here: nothing of the card is used.
    ERASURE.write_text(f"{DRIVE}\n{DATA}\n")
    with flickering():
        left = finish(card, read_own(card))
    ERASURE.write_text("".join(f"{what}\n" for what in left))
    logger.warning("left: %s", ", ".join(left) or "nothing")
    return left


def erase_rest(card: Card, own: Own, *, complete: bool = True) -> tuple[str, ...]:
    """All that comes after the settings; return what resists. The mark goes if that is nothing, and ``complete``."""
    done = {DATA: card.data is None or erase_data(card.data), DRIVE: erase_drive(card.boot, own)}
    left = tuple(what for what, is_done in done.items() if not is_done)
    if complete and not left and not card.clear():
        logger.warning("the mark that an erase began cannot be removed; the next start erases once more")
    return left


@contextlib.contextmanager
def flickering(sys: Path = SYS) -> Iterator[None]:
    """The light shows that it is being erased, as long as there is nobody else to switch it."""
    done = threading.Event()
    thread = threading.Thread(target=_flicker, args=(sys, done.wait), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _flicker(sys: Path, wait: Callable[[float], bool]) -> None:
    folder = find_led(sys)
    with contextlib.suppress(OSError):
        if folder is None:
            return
        led = Led(folder)
        on_s, off_s = PATTERNS[Code.PANIC]
        while True:
            led.switch(on=True)
            wait(on_s)
            led.switch(on=False)
            if wait(off_s):
                return
