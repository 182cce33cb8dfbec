# SPDX-License-Identifier: GPL-2.0-or-later
"""The store over the last day, kept in memory for the status page."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from relay.control.status import Status

#: A day in steps that a small picture can show: 289 samples of under 200 bytes, 56 KiB.
SAMPLE_INTERVAL_S = 300.0
MAX_SAMPLES = 24 * 3600 // 300 + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The store at ``at_s`` (monotonic seconds)."""

    at_s: float
    envelopes: int
    bytes: int


class History:
    """Takes a sample when the last one is old enough; ``clock`` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._samples: deque[Sample] = deque(maxlen=MAX_SAMPLES)

    def note(self, status: Status) -> None:
        """Look at the store; call as often as is convenient."""
        sample = self._sample(status)
        if not self._samples or sample.at_s - self._samples[-1].at_s >= SAMPLE_INTERVAL_S:
            self._samples.append(sample)

    def until_now(self, status: Status) -> list[Sample]:
        """The samples, oldest first, and the present as the last."""
        return [*self._samples, self._sample(status)]

    def _sample(self, status: Status) -> Sample:
        return Sample(at_s=self._clock(), envelopes=status.store.envelopes, bytes=status.store.bytes)
