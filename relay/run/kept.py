# SPDX-License-Identifier: GPL-2.0-or-later
"""A few kilobytes that outlive the process and not the machine: in memory, and never on a disk or card.

systemd keeps an open file for a service that is started again (file descriptor store, sd_notify(3)); this one has no
name and no place on any disk. Whoever runs a relay by hand has a folder for his session, which is in memory as well
(XDG_RUNTIME_DIR). Where there is neither, nothing is kept.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Final

from relay.process.notify import FIRST_GIVEN_FD, is_given_files

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from relay.process.notify import Notifier

logger = logging.getLogger(__name__)

#: By this name systemd hands it back.
NAME: Final = "history"
#: A day of samples has under 20 KiB.
MAX_BYTES: Final = 64 * 1024


class Kept:
    """An open file that is in memory."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def read(self) -> bytes:
        """What was written last, b"" at first."""
        return os.pread(self._fd, MAX_BYTES, 0)

    def write(self, content: bytes) -> None:
        """Put ``content`` in the place of what is there; whoever is killed meanwhile leaves what cannot be read."""
        if len(content) <= MAX_BYTES:
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, content, 0)


def open_kept(environ: Mapping[str, str], notifier: Notifier, control: Path) -> Kept | None:
    """What is kept for this relay; ``control``: its control socket, beside which the session's folder has it."""
    given = _given(environ)
    if given is not None:
        return Kept(given)
    if notifier.is_listened_to:
        made = os.memfd_create(NAME)
        notifier.keep(NAME, made)
        return Kept(made)
    session = environ.get("XDG_RUNTIME_DIR", "")
    if session and control.is_relative_to(session):
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            # The first relay of a session comes before whatever else makes it, its socket included.
            control.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            return Kept(os.open(control.with_name(NAME), flags, 0o600))
        except OSError as error:
            logger.warning("the history of the day is lost with this process: %s", error.strerror)
    return None


def _given(environ: Mapping[str, str]) -> int | None:
    """The file that systemd kept from the process before this one (sd_listen_fds_with_names(3))."""
    if not is_given_files(environ):
        return None
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    return FIRST_GIVEN_FD + names.index(NAME) if NAME in names else None
