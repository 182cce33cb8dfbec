# SPDX-License-Identifier: GPL-2.0-or-later
"""A power cut after any write to a card."""

import pytest

from relay.board.device import Device


class PowerCutError(BaseException):
    """Nobody handles it: what comes after it does not happen."""


@pytest.fixture
def cut(monkeypatch):
    """From the given write on, nothing reaches any device; of that one, half."""
    write = Device.write

    def arm(writes):
        left = [writes]

        def dying(self, offset, data):
            if left[0] == 0:
                write(self, offset, bytes(data)[: len(data) // 2 // 512 * 512])
                raise PowerCutError
            left[0] -= 1
            write(self, offset, data)

        monkeypatch.setattr(Device, "write", dying)

    yield arm
    monkeypatch.undo()
