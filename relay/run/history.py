# SPDX-License-Identifier: GPL-2.0-or-later
"""Store and traffic over the last day, for the operator's page; in memory, and nowhere else."""

from __future__ import annotations

import json
from collections import deque
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from relay.control.status import Status
    from relay.run.kept import Kept

#: A day in steps that a small picture can show: 289 samples of under 250 bytes, 72 KiB.
SAMPLE_INTERVAL_S: Final = 300.0
MAX_SAMPLES: Final = 24 * 3600 // 300 + 1
#: Of what a process before this one left behind; another layout is not read.
_VERSION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The store at ``at_s`` (monotonic seconds), and the bytes of sessions since the sample before."""

    at_s: float
    envelopes: int
    bytes: int
    received: int
    sent: int


class History:
    """Takes a sample when the last one is old enough; ``clock`` gives monotonic seconds.

    ``kept`` outlives the process, not the machine: what one before this noted is gone on with.
    """

    def __init__(self, clock: Callable[[], float], kept: Kept | None = None) -> None:
        self._clock = clock
        self._kept = kept
        self._received = self._sent = 0
        self._samples: deque[Sample] = deque(_decode(kept.read(), clock()) if kept else (), maxlen=MAX_SAMPLES)

    def note(self, status: Status) -> None:
        """Look at the relay; call as often as is convenient."""
        if self._samples and self._clock() - self._samples[-1].at_s < SAMPLE_INTERVAL_S:
            return
        self._samples.append(self._sample(status))
        self._received, self._sent = _traffic(status)
        if self._kept:
            self._kept.write(_encode(self._samples))

    def until_now(self, status: Status) -> list[Sample]:
        """The samples, oldest first, and the present as the last."""
        return [*self._samples, self._sample(status)]

    def _sample(self, status: Status) -> Sample:
        received, sent = _traffic(status)
        return Sample(
            at_s=self._clock(),
            envelopes=status.store.envelopes,
            bytes=status.store.bytes,
            # An interface that went takes what it counted along.
            received=max(received - self._received, 0),
            sent=max(sent - self._sent, 0),
        )


def _traffic(status: Status) -> tuple[int, int]:
    return sum(link.bytes_in for link in status.links), sum(link.bytes_out for link in status.links)


def _encode(samples: deque[Sample]) -> bytes:
    return json.dumps({"v": _VERSION, "samples": [astuple(sample) for sample in samples]}).encode()


def _decode(raw: bytes, now: float) -> list[Sample]:
    """What :func:`_encode` wrote, of this start of the machine; nothing of what was cut off or is not ours."""
    try:
        document = json.loads(raw)
        rows = document["samples"] if document["v"] == _VERSION else []
        found = [
            Sample(at_s=float(at_s), envelopes=int(envelopes), bytes=int(held), received=int(received), sent=int(sent))
            for at_s, envelopes, held, received, sent in rows[-MAX_SAMPLES:]
        ]
    except (ValueError, TypeError, KeyError, RecursionError):
        return []
    times = [sample.at_s for sample in found]
    # The clock of another start: it began at zero anew.
    return found if times == sorted(times) and (not times or times[-1] <= now) else []
