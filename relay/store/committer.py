# SPDX-License-Identifier: GPL-2.0-or-later
"""Group commit for asyncio: a lone batch commits at once, a burst shares a sync.

One thread commits. What arrives while it does so waits, and makes up the next
transaction; so groups grow with the load and nobody waits for a timer.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from relay.core.batch import Batch
    from relay.store.database import Store

#: Rows to a transaction, unless one batch has more. Measured: beyond this, larger
#: groups gain less than 5 %, and each acknowledgement in them waits longer.
MAX_GROUP_ROWS = 1024
#: Envelope bytes to a transaction, unless one batch has more: what a slow card (4 MB/s)
#: writes twice in half a second; 1.4 MiB of dirty pages.
MAX_GROUP_BYTES = 1024 * 1024

OnDone: TypeAlias = "Callable[[BaseException | None], None]"


class _Job(NamedTuple):
    batch: Batch
    on_done: OnDone
    rows: int
    body_bytes: int


class Committer:
    """Commits batches to a store in a thread of its own, for one event loop.

    All methods are for the loop's thread. ``pending_rows`` and ``pending_bytes``
    count what was submitted and not yet called back; whoever submits keeps them
    bounded, nothing here refuses.
    """

    def __init__(
        self,
        store: Store,
        *,
        loop: asyncio.AbstractEventLoop,
        max_group_rows: int = MAX_GROUP_ROWS,
        max_group_bytes: int = MAX_GROUP_BYTES,
        on_commit: Callable[[float], None] = lambda _: None,
    ) -> None:
        """Start the thread. ``store`` remains the caller's, to close after this.

        ``on_commit`` hears how many seconds each transaction took, its sync included.
        """
        self._store = store
        self._loop = loop
        self._on_commit = on_commit
        #: When what is pending was submitted, in order.
        self._submitted: deque[float] = deque()
        self._max_group_rows = max_group_rows
        self._max_group_bytes = max_group_bytes
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        #: Transactions that are over: their jobs, what went wrong, and how many seconds they took.
        self._over: queue.SimpleQueue[tuple[list[_Job], BaseException | None, float]] = queue.SimpleQueue()
        self._pending_rows = 0
        self._pending_bytes = 0
        self._pending_batches = 0
        self._groups = 0
        self._drained: list[asyncio.Future[None]] = []
        self._closed = False
        # A daemon: whoever dies without close() is not kept from it, and the store
        # is made for being cut off.
        self._thread = threading.Thread(target=self._work, name="relay-store", daemon=True)
        self._thread.start()

    @property
    def pending_rows(self) -> int:
        """Rows submitted and not yet called back."""
        return self._pending_rows

    @property
    def pending_bytes(self) -> int:
        """Envelope bytes submitted and not yet called back."""
        return self._pending_bytes

    @property
    def wait_s(self) -> float:
        """For how long the batch that waits longest has been waiting, in seconds; 0 if none does."""
        return self._loop.time() - self._submitted[0] if self._submitted else 0.0

    @property
    def groups(self) -> int:
        """Transactions called back so far, failed ones too."""
        return self._groups

    def submit(self, batch: Batch, on_done: OnDone) -> None:
        """Commit ``batch`` soon; ``on_done`` is called once, in order of submission.

        The thread reads ``batch`` until then: it must not change any more.

        It gets None when the batch is stored, else the error, which goes to all
        batches of the same transaction: of these nothing is stored.
        """
        if self._closed:
            raise RuntimeError("submit() after close()")
        rows = len(batch.inserts) + len(batch.drop_bodies) + len(batch.displace) + len(batch.forget) + len(batch.state)
        body_bytes = sum([len(row[5]) for row in batch.inserts if row[5] is not None])
        job = _Job(batch, on_done, rows, body_bytes)
        self._submitted.append(self._loop.time())
        self._pending_rows += job.rows
        self._pending_bytes += job.body_bytes
        self._pending_batches += 1
        self._jobs.put(job)

    def deliver(self, wait_s: float = 0.0) -> None:
        """Call back for what is committed by now, after waiting until something is, for so many seconds at most.

        The loop does so by itself after each transaction, behind all that it has to do already. Whoever keeps it busy
        calls this before that, and waits a little after it: meanwhile the thread has the interpreter for itself.
        """
        with contextlib.suppress(queue.Empty):
            if wait_s and self._pending_batches:
                self._call_back(*self._over.get(timeout=wait_s))
            while True:
                self._call_back(*self._over.get_nowait())

    async def drain(self) -> None:
        """Return as soon as nothing is pending."""
        if self._pending_batches:
            waiter = self._loop.create_future()
            self._drained.append(waiter)
            await waiter

    async def close(self) -> None:
        """Commit what was submitted, take no more, and end the thread."""
        if not self._closed:
            self._closed = True
            self._jobs.put(None)
        await self.drain()
        # Its last act was to hand over the last callbacks, so this does not wait.
        self._thread.join()

    def _work(self) -> None:
        # A job taken from the queue that was too much for the group before it.
        held: list[_Job | None] = []
        while (first := held.pop() if held else self._jobs.get()) is not None:
            group = self._collect(first, held)
            error: BaseException | None = None
            began = time.monotonic()
            try:
                self._store.commit(*[job.batch for job in group])
            except Exception as caught:  # noqa: BLE001 - whatever it is, nobody may be told "stored"
                error = caught
            self._over.put((group, error, time.monotonic() - began))
            try:
                self._loop.call_soon_threadsafe(self.deliver)
            except RuntimeError:
                return  # the loop is closed: nobody is left to tell

    def _collect(self, first: _Job, held: list[_Job | None]) -> list[_Job]:
        """Return ``first`` with what else waits and fits, leaving what does not in ``held``."""
        group = [first]
        rows, body_bytes = first.rows, first.body_bytes
        while True:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return group
            if job is None:
                held.append(job)
                return group
            rows += job.rows
            body_bytes += job.body_bytes
            if rows > self._max_group_rows or body_bytes > self._max_group_bytes:
                held.append(job)
                return group
            group.append(job)

    def _call_back(self, group: list[_Job], error: BaseException | None, took_s: float) -> None:
        self._groups += 1
        self._on_commit(took_s)
        for job in group:
            self._submitted.popleft()
            self._pending_rows -= job.rows
            self._pending_bytes -= job.body_bytes
            self._pending_batches -= 1
            try:
                job.on_done(error)
            except Exception as caught:  # noqa: BLE001 - one caller's mistake is not the next one's
                self._loop.call_exception_handler({"message": "on_done of a batch failed", "exception": caught})
        if not self._pending_batches:
            waiters, self._drained = self._drained, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)
