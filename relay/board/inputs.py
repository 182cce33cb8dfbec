# SPDX-License-Identifier: GPL-2.0-or-later
"""All buttons there are, as they come and go."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from relay.board.evdev import INPUT, KeyEvent, open_button, read_keys

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from pathlib import Path

#: A board has one or two; a bus of keyboards gets no more.
MAX_BUTTONS: Final = 8


class Inputs:
    """Watches the buttons; ``on_key`` hears of keys, ``on_gone`` of devices that were unplugged."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_key: Callable[[str, KeyEvent], None],
        on_gone: Callable[[str], None],
        folder: Path = INPUT,
    ) -> None:
        self._loop = loop
        self._on_key = on_key
        self._on_gone = on_gone
        self._folder = folder
        self._open: dict[Path, int] = {}
        #: Looked at already and no button, by number of its node: a name may come back as another device.
        self._others: dict[Path, tuple[int, float]] = {}

    def __len__(self) -> int:
        return len(self._open)

    def scan(self) -> None:
        """Open buttons that are new; cheap when there are none."""
        nodes = {path: self._identity(path) for path in self._folder.glob("event*")}
        self._others = {path: seen for path, seen in self._others.items() if nodes.get(path) == seen}
        for path, identity in nodes.items():
            if path in self._open or path in self._others or identity is None or len(self._open) >= MAX_BUTTONS:
                continue
            try:
                descriptor = open_button(path)
            except OSError:
                # Not there any more, or not ours yet; the next scan tells.
                continue
            if descriptor is None:
                self._others[path] = identity
                continue
            self._open[path] = descriptor
            self._loop.add_reader(descriptor, self._readable, path)

    def close(self) -> None:
        """Let go of all of them."""
        for path in list(self._open):
            self._drop(path)

    @staticmethod
    def _identity(path: Path) -> tuple[int, float] | None:
        try:
            status = path.stat()
        except OSError:
            return None
        return status.st_rdev, status.st_ctime

    def _readable(self, path: Path) -> None:
        try:
            events = read_keys(self._open[path])
        except OSError:
            self._drop(path)
            self._on_gone(str(path))
            return
        for event in events:
            self._on_key(str(path), event)

    def _drop(self, path: Path) -> None:
        descriptor = self._open.pop(path)
        self._loop.remove_reader(descriptor)
        os.close(descriptor)
