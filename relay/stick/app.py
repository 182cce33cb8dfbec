# SPDX-License-Identifier: GPL-2.0-or-later
"""`relay stick`: what is done with a stick, from plugging it in to pulling it out; one at a time.

A process for each time, started by systemd while there is something on USB (relay-stick.path): it looks for the first
stick that has something for a relay, has the store opened with its key, leaves the report on it if it may, gives up its
privileges, which are to mount, to hand in a key and to ask the relay, and offers files until the stick has gone. The
mount is its own, and ends with it. Blocking, without an event loop: a stick that hangs holds this process, and nothing
that relays.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from relay.appliance.addresses import own_addresses
from relay.appliance.constants import STORE_WHEN_OPEN
from relay.config.sticks import StickUse
from relay.control.control_client import ControlClient, ControlError
from relay.control.notices import NOTICES, Notice, NoticeCode, encode_notices
from relay.control.relay_report import REPORT, report_text, write_report
from relay.core.errors import RelayError
from relay.process import logs, update_request
from relay.process.shelf import STICK_LIST, STICK_SOCKET, make_list
from relay.process.unix_sockets import listen_unix
from relay.process.unlock_request import OpeningError, ask
from relay.stick import privilege
from relay.stick.content import FOLDER, SHELF, Content, is_marked, look, open_update, read_key
from relay.stick.found import Stick, find_sticks, is_anything_there
from relay.stick.offering import LOOK_S, MAX_READERS, Offering

if TYPE_CHECKING:
    import socket
    from collections.abc import Collection
    from pathlib import Path

logger = logging.getLogger(__name__)

#: Where it is mounted, in this process' mount namespace.
MOUNT: Final = STICK_LIST.with_name("mnt")
#: Written anew with each report, and when a key has opened the store: `relay board` lets the light say so.
REPORTED: Final = STICK_LIST.with_name("reported")
#: Until all parts of what was plugged in are there; and so seldom, at most, is one looked at that comes and goes.
SETTLE_S: Final = 2.0
#: A box that starts with a stick in it is up within that.
REPORT_PATIENCE_S: Final = 300.0
_ASK_S: Final = 2.0
#: Servers of the shelf, which are other users.
_SOCKET_MODE: Final = 0o666


@dataclass(slots=True)
class Taken:
    """A stick that is mounted, and what is on it."""

    stick: Stick
    content: Content


class Sticks:
    """The work of one process. ``uses``: what sticks are for here; ``control``: socket of the relay."""

    def __init__(self, uses: Collection[StickUse], control: Path) -> None:
        self._uses = uses
        self._control = control
        self._notices: list[Notice] = []

    def run(self) -> None:
        """Use the first stick that is of use, until it has gone; if none is, wait until there are others."""
        time.sleep(SETTLE_S)
        sticks = find_sticks()
        taken = self._take_first(sticks)
        if taken is not None and taken.content.has_key:
            self._open_store()
        if taken is not None and taken.content.is_marked and StickUse.REPORT in self._uses:
            self._report(taken)
        self._tell_of_shelf(taken)
        taker = self._find_taker(taken)
        # From here on there is nothing that a stick's content could make this process do: not even ask the relay.
        privilege.leave_groups()
        privilege.give_up()
        self._leave_notices()
        if taken is not None and taker is not None:
            threading.Thread(target=self._hand_in, args=(taker, taken.stick), daemon=True).start()
        if taken is None:
            while is_anything_there() and find_sticks() == sticks:
                time.sleep(LOOK_S)
        elif taken.content.shelf is not None and StickUse.SHELF in self._uses:
            self._offer(taken.stick, taken.content.shelf)
        else:
            while taken.stick.is_there():
                time.sleep(LOOK_S)

    def _take_first(self, sticks: list[Stick]) -> Taken | None:
        unreadable = False
        for stick in sticks:
            try:
                privilege.mount(stick.device, MOUNT)
            except OSError as error:
                logger.info("a stick cannot be mounted (%s)", error.strerror)
                unreadable = True
                continue
            content = look(MOUNT)
            if content is not None:
                return Taken(stick, content)
            privilege.unmount(MOUNT)
        if sticks:
            self._hint(
                "A stick that is plugged in cannot be read: it is damaged, or has neither FAT nor exFAT."
                if unreadable
                else f"A stick that is plugged in has no folder {FOLDER}: nothing else of it is looked at."
            )
        return None

    def _open_store(self) -> None:
        if not STORE_WHEN_OPEN.exists():
            # Nothing is encrypted, or it is open: no key is read that nobody needs.
            return
        if StickUse.KEY not in self._uses:
            self._hint(
                "The stick's key is not used, as anybody could plug one in. If it is to be: "
                'sticks = ["report", "key"] in relay.toml, below [appliance].'
            )
            return
        secret = read_key(MOUNT)
        if secret is None:
            self._hint("The stick's key cannot be read: it has to be a text of one line.")
            return
        try:
            ask(secret)
        except OpeningError as error:
            logger.warning("the stick's key did not open the store")
            self._hint(f"The stick's key did not open what is kept: {error}.")
            return
        self._hint("The stick's key has opened what is kept: pull the stick out, and keep it away from the box.")
        REPORTED.touch()

    def _report(self, taken: Taken) -> None:
        text = self._report_text(taken.stick)
        if text is None:
            self._hint("There is no report on the stick: the relay did not answer. Plug it in again later.")
            return
        try:
            privilege.unmount(MOUNT)
            privilege.mount(taken.stick.device, MOUNT, writable=True)
            try:
                # What was there when it could not be written to.
                if is_marked(MOUNT):
                    write_report(MOUNT / FOLDER / REPORT, text)
            finally:
                privilege.unmount(MOUNT)
                privilege.mount(taken.stick.device, MOUNT)
        except OSError as error:
            logger.warning("the stick cannot be written (%s)", error.strerror)
            self._hint("The stick has no room for a report, is write-protected or damaged: use another.")
            return
        if taken.content.has_update and StickUse.UPDATE in self._uses:
            self._hint(f"The stick has the report, {FOLDER}/{REPORT}.")
            return
        self._hint(f"The stick has the report, {FOLDER}/{REPORT}, and may be pulled out.")
        REPORTED.touch()

    def _report_text(self, stick: Stick) -> bytes | None:
        """The report, as soon as the relay answers; None if it does not, or the stick has gone."""
        until = time.monotonic() + REPORT_PATIENCE_S
        while stick.is_there():
            try:
                with ControlClient(self._control) as client:
                    return report_text(client.read_status(), client.metrics(), own_addresses()).encode()
            except ControlError:
                if time.monotonic() > until:
                    break
            time.sleep(_ASK_S)
        return None

    def _tell_of_shelf(self, taken: Taken | None) -> None:
        if taken is None or taken.content.shelf is None:
            return
        if StickUse.SHELF in self._uses:
            self._hint("The stick's files are offered to participants, until it is pulled out.")
        else:
            self._hint(
                f"The stick's folder {FOLDER}/{SHELF} is not offered, as anybody could plug one in. If it is to be: "
                'sticks = ["report", "shelf"] in relay.toml, below [appliance].'
            )

    def _find_taker(self, taken: Taken | None) -> socket.socket | None:
        """A way to who takes updates, if there is one to be taken."""
        if taken is None or not taken.content.has_update:
            return None
        if StickUse.UPDATE not in self._uses:
            self._hint(
                "The stick's update is not used. If it is to be: "
                'sticks = ["report", "update"] in relay.toml, below [appliance].'
            )
            return None
        try:
            return update_request.connect()
        except update_request.UpdateError as error:
            self._hint(f"The stick's update cannot be used: {error}.")
            REPORTED.touch()
            return None

    def _hand_in(self, taker: socket.socket, stick: Stick) -> None:
        """Let the update be read, and tell what came of it."""
        try:
            descriptor = open_update(MOUNT)
            with taker, os.fdopen(descriptor, "rb", buffering=0):
                said = update_request.hand_in(
                    taker,
                    lambda offset, length: os.pread(descriptor, length, offset),
                    older=False,
                    is_there=stick.is_there,
                )
        except (OSError, update_request.UpdateError) as error:
            logger.warning("the stick's update was not handed in (%s)", type(error).__name__)
            self._hint("The stick's update was cut off. Plug the stick in again, and it goes on where it was.")
        else:
            logger.info("the stick's update: %s", said.reason or "taken")
            self._hint(f"The stick's update is not used: {said.text}." if said.reason else said.text)
        self._leave_notices()
        REPORTED.touch()

    def _offer(self, stick: Stick, folder: Path) -> None:
        listener = listen_unix(STICK_SOCKET, _SOCKET_MODE, MAX_READERS)
        # Sums of gigabytes take minutes, and a stick that hangs takes for ever.
        arguments = (folder, STICK_LIST, logger.info)
        threading.Thread(target=make_list, args=arguments, kwargs={"stick": True}, daemon=True).start()
        Offering(listener.sock, folder, STICK_LIST).run(stick.is_there)

    def _hint(self, text: str) -> None:
        self._notices.append(Notice(code=NoticeCode.HINT, text=text))

    def _leave_notices(self) -> None:
        file = NOTICES[2]
        fresh = file.with_suffix(".new")
        fresh.write_bytes(encode_notices(self._notices))
        fresh.chmod(0o644)
        fresh.replace(file)


def run(uses: Collection[StickUse], control: Path) -> int:
    """Do what there is to do with what is plugged in; return the exit status."""
    logs.setup("info")
    try:
        Sticks(uses, control).run()
    except OSError as error:
        raise StickError(f"{error}; pull it out, and plug it in again") from error
    # Threads that wait for a stick are not waited for.
    os._exit(0)


class StickError(RelayError):
    """Something that should not happen; the message has the remedy."""
