# SPDX-License-Identifier: GPL-2.0-or-later
"""Who is served: channels and slots of phones and of relays that dialled us, each with a stream to `relay run`.

Phones and relays have places of their own. When all of a kind are taken, whoever has been silent for longest gives
way to a newcomer, or else whoever has been there for long.
"""

from __future__ import annotations

import asyncio
import logging
import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from relay.bluetooth import l2cap, splice
from relay.bluetooth.gatt import INFO_UUID, NO_SLOT, RELAY_INFO_UUID, SLOT_UUID, SLOTS, Info, frame_bytes
from relay.bluetooth.slot_frames import CloseReason, Kind, decode_frame
from relay.bluetooth.slots import Slot
from relay.bluetooth.stream import ChannelStream, SlotStream
from relay.core.errors import DecodeError
from relay.core.stats import LinkKind
from relay.process import link_socket
from relay.process.link_socket import ForeignStream
from relay.process.tasks import TaskGroup

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from relay.bluetooth.stream import Stream
    from relay.process.reports import Reporter

logger = logging.getLogger(__name__)

#: From giving a slot, or from the end of its stream, to its OPEN (docs/ble.md section 3).
OPEN_TIMEOUT_S: Final = 15.0
#: A central opens a stream on its slot no more often: each is a session of `relay run`.
#: One that is in a hurry repeats its OPEN.
REOPEN_S: Final = 0.2
#: Places for relays that dial us, beside those for phones: 40 kB each, as those have.
RELAY_PLACES: Final = 4
#: Who has been silent for so long gives way when there is no place left: no phone is, in the few seconds of a visit.
SILENT_S: Final = 10.0
#: Fewer bytes, both ways together, are silence: a PING and its answer have 60, the smallest envelope 256.
LEAST_BYTES: Final = 200
#: ... and so does who has been there for so long, however much it says; what it has not got it comes back for.
LONG_S: Final = 120.0
#: After an error that accepting again at once would repeat.
ACCEPT_PAUSE_S: Final = 1.0


@dataclass(slots=True)
class _Place:
    """A slot that was given to a device."""

    slot: int
    frame_bytes: int
    timeout: asyncio.TimerHandle
    stream: SlotStream | None = None
    began_s: float | None = None


@dataclass(slots=True)
class _Visitor:
    """Somebody connected who has a place, or had one, or asked for one as a relay."""

    is_relay: bool = False
    came_s: float = -math.inf
    """When it had a place first, on this connection."""
    heard_s: float = -math.inf
    stream: Stream | None = None
    is_leaving: bool = False
    """It gave way, and gets no place any more."""
    uncounted_bytes: int = 0

    def moved(self, size_bytes: int, now: float) -> None:
        """Note bytes that came or went."""
        self.uncounted_bytes += size_bytes
        if self.uncounted_bytes >= LEAST_BYTES:
            self.uncounted_bytes = 0
            self.heard_s = now


class Server:
    """The places for clients, over all adapters. Devices are named by the paths of BlueZ's objects."""

    def __init__(
        self,
        *,
        max_clients: int,
        socket_path: Path,
        reporter: Reporter,
        notify: Callable[[int, list[bytes]], None],
        hang_up: Callable[[str], None] = lambda _: None,
    ) -> None:
        """``socket_path``: link.sock of `relay run`; ``notify`` sends values by the TX of a slot.

        ``hang_up`` ends the connection of a device that gave way, lest it be back before who comes.
        """
        self._max_clients = max_clients
        self._socket_path = socket_path
        self._reporter = reporter
        self._notify = notify
        self._hang_up = hang_up
        self._visitors: dict[str, _Visitor] = {}
        self._places: dict[str, _Place] = {}
        self._channels: dict[str, ChannelStream] = {}
        self._dialled: set[Stream] = set()
        self._tasks: TaskGroup | None = None
        self._psm = 0
        #: Names of the adapters that serve, by their identity addresses.
        self.adapters: dict[str, str] = {}
        #: Whether `relay run` is there.
        self.is_open = False

    def is_busy_for(self, device: str) -> bool:
        """Whether a device would be turned away."""
        rivals = self._rivals(device)
        is_welcome = self.is_open and not self._known(device).is_leaving
        return not is_welcome or (bool(rivals) and self._who_gives_way(rivals) is None)

    def uses(self, device: str) -> bool:
        """Whether a device has a place here."""
        return device in self._places or device in self._channels

    def carries(self, device: str) -> bool:
        """Whether a device has a stream: a slot alone is none."""
        return self._known(device).stream is not None

    def _known(self, device: str) -> _Visitor:
        return self._visitors.get(device) or _Visitor()

    def _enter(self, device: str) -> None:
        """Note that a device has a place."""
        visitor = self._visitors.setdefault(device, _Visitor())
        if visitor.came_s == -math.inf:
            visitor.came_s = visitor.heard_s = asyncio.get_running_loop().time()

    def _rivals(self, device: str) -> list[str]:
        """Devices with a place of the kind that this one needs, if all of these are taken."""
        is_relay = self._known(device).is_relay
        alike = [other for other in (*self._places, *self._channels) if self._known(other).is_relay is is_relay]
        return alike if len(alike) >= (RELAY_PLACES if is_relay else self._max_clients) else []

    def _who_gives_way(self, rivals: list[str]) -> str | None:
        """Return who has been silent for longest, or was there for longest, if that is long enough."""
        now = asyncio.get_running_loop().time()
        silent = min((self._known(other).heard_s, other) for other in rivals)
        there = min((self._known(other).came_s, other) for other in rivals)
        for (since_s, other), long_s in ((silent, SILENT_S), (there, LONG_S)):
            if now - since_s >= long_s:
                return other
        return None

    def _make_room(self, rivals: list[str]) -> bool:
        """Have one of these give way, if there are any; False if nobody does."""
        if not rivals:
            return True
        other = self._who_gives_way(rivals)
        if other is None:
            return False
        self._reporter.count("gave_way")
        self._free_slot(other)
        self._close_channel(other)
        if (visitor := self._visitors.get(other)) is not None:
            visitor.is_leaving = True
        self._hang_up(other)
        return True

    def has_channels(self, adapter_path: str) -> bool:
        """Whether a channel is open on an adapter, which proves that it kept its connections."""
        return any(device.startswith(f"{adapter_path}/") for device in self._channels)

    # -- channels -------------------------------------------------------------

    async def run(self, listener: socket.socket, psm: int) -> None:
        """Accept channels from ``listener``, which is bound to ``psm``, and serve until cancelled; closes it."""
        try:
            self._psm = psm
            async with TaskGroup() as self._tasks:
                await self._accept(listener)
        finally:
            self._tasks = None
            listener.close()

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, _ = await loop.sock_accept(listener)
            except OSError as error:
                self._reporter.count("channel_failed")
                logger.warning("a channel could not be accepted (%s)", type(error).__name__)
                await asyncio.sleep(ACCEPT_PAUSE_S)
                continue
            try:
                self._open_channel(sock)
            except (OSError, DecodeError):
                # It left as soon as it came.
                self._reporter.count("channel_failed")
                sock.close()

    def _open_channel(self, sock: socket.socket) -> None:
        interface = self.adapters.get(l2cap.own_address(sock).text)
        address = l2cap.peer_address(sock).text
        device = f"/org/bluez/{interface}/dev_{address.replace(':', '_')}"
        is_extra = interface is not None and self.uses(device)
        if interface is None or is_extra or self.is_busy_for(device) or not self._make_room(self._rivals(device)):
            self._reporter.count("refused_extra_channel" if is_extra else "refused_busy")
            sock.close()
            return
        stream = self._channels[device] = ChannelStream(sock)
        self._enter(device)
        self._accepted()
        self._spawn(self._serve_channel(device, interface, stream))

    async def _serve_channel(self, device: str, interface: str, stream: ChannelStream) -> None:
        try:
            await self._serve_visitor(device, stream, interface)
        finally:
            if self._channels.get(device) is stream:
                del self._channels[device]
            self._measure()

    def _close_channel(self, device: str) -> None:
        if (channel := self._channels.pop(device, None)) is not None:
            channel.close()

    # -- slots: called for the GATT application ----------------------------------

    def on_read(self, uuid: str, device: str, mtu_bytes: int) -> bytes:
        """Answer INFO, RELAY INFO or SLOT."""
        if uuid == RELAY_INFO_UUID and not self.uses(device):
            self._visitors.setdefault(device, _Visitor()).is_relay = True
        if uuid in (INFO_UUID, RELAY_INFO_UUID):
            is_busy = self.is_busy_for(device) and not self.uses(device)
            slots = SLOTS if uuid == INFO_UUID else 0
            return Info(is_busy=is_busy, psm=self._psm, slots=slots).encode()
        if uuid == SLOT_UUID:
            return bytes([self._give_slot(device, mtu_bytes)])
        raise ValueError(uuid)

    def _give_slot(self, device: str, mtu_bytes: int) -> int:
        place = self._places.get(device)
        if place is not None:
            place.frame_bytes = frame_bytes(mtu_bytes)
            return place.slot
        # Relays have channels.
        if self._known(device).is_relay or self.uses(device):
            self._reporter.count("refused_extra_channel")
            return NO_SLOT
        rivals = list(self._places) if len(self._places) >= SLOTS else self._rivals(device)
        if self.is_busy_for(device) or not self._make_room(rivals):
            self._reporter.count("refused_busy")
            return NO_SLOT
        used = {other.slot for other in self._places.values()}
        slot = next(slot for slot in range(SLOTS) if slot not in used)
        self._enter(device)
        self._places[device] = _Place(slot=slot, frame_bytes=frame_bytes(mtu_bytes), timeout=self._open_timeout(device))
        self._reporter.count("slots_given")
        self._measure()
        return slot

    def on_write(self, device: str, value: bytes) -> None:
        """Take in a frame."""
        place = self._places.get(device)
        if place is None:
            self._reporter.count("frames_dropped_no_slot")
            return
        if place.stream is not None and place.stream.frame_received(value):
            return
        try:
            frame = decode_frame(value)
        except DecodeError:
            self._reporter.count("frames_dropped_malformed")
            return
        now = asyncio.get_running_loop().time()
        is_too_soon = place.began_s is not None and now < place.began_s + REOPEN_S
        if frame.kind is not Kind.OPEN or is_too_soon:
            self._reporter.count("slot_protocol")
            return
        if place.stream is not None:
            # The central began anew; of its earlier stream it knows nothing any more.
            place.stream.close()
        elif self._tasks is None or not self.is_open:
            return
        else:
            self._accepted()
        place.timeout.cancel()
        place.began_s = now
        slot = Slot(is_central=False, nonce=frame.sequence, frame_bytes=place.frame_bytes, count=self._reporter.count)
        place.stream = SlotStream(slot, partial(self._notify, place.slot))
        place.stream.frame_received(value)
        self._spawn(self._serve_slot(device, place, place.stream))

    def on_writes_dropped(self, count: int) -> None:
        """Count frames beyond what a device may have waiting."""
        self._reporter.count("frames_dropped_beyond_window", count)

    async def _serve_slot(self, device: str, place: _Place, stream: SlotStream) -> None:
        interface = device.split("/")[3] if device.count("/") >= 4 else "hci"
        await self._serve_visitor(device, stream, interface)
        if stream.ended is CloseReason.TIMEOUT:
            self._reporter.count("slot_timeout")
        if self._places.get(device) is place and place.stream is stream:
            place.timeout = self._open_timeout(device)

    def _open_timeout(self, device: str) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(OPEN_TIMEOUT_S, self._slot_unused, device)

    def _slot_unused(self, device: str) -> None:
        place = self._places[device]
        if place.stream is None:
            self._reporter.count("slot_unused")
        self._free_slot(device)

    def _free_slot(self, device: str) -> None:
        place = self._places.pop(device, None)
        if place is not None:
            place.timeout.cancel()
            if place.stream is not None:
                place.stream.close()
            self._measure()

    # -- both ---------------------------------------------------------------------

    async def serve_dialled(self, stream: Stream, interface: str) -> None:
        """Serve a stream that we dialled, until it ends."""
        self._dialled.add(stream)
        try:
            await self._serve(stream, interface, initiator=True)
        finally:
            self._dialled.discard(stream)

    def disconnected(self, device: str) -> None:
        """A device's connection ended, and with it its channel."""
        self._visitors.pop(device, None)
        self._close_channel(device)
        self._free_slot(device)

    def forget_slots(self) -> None:
        """Connections are no longer known by name: bluetoothd is gone."""
        self._visitors = {device: self._visitors[device] for device in self._channels if device in self._visitors}
        for device in list(self._places):
            self._free_slot(device)

    def close_all(self) -> None:
        """End all streams: `relay run` is away."""
        self.is_open = False
        self.forget_slots()
        for stream in [*self._channels.values(), *self._dialled]:
            stream.close()

    async def _serve_visitor(self, device: str, stream: Stream, interface: str) -> None:
        loop = asyncio.get_running_loop()
        visitor = self._known(device)
        visitor.stream = stream
        try:
            await self._serve(
                stream, interface, initiator=False, moved=lambda size_bytes: visitor.moved(size_bytes, loop.time())
            )
        finally:
            if visitor.stream is stream:
                visitor.stream = None

    async def _serve(
        self,
        stream: Stream,
        interface: str,
        *,
        initiator: bool,
        moved: Callable[[int], None] = lambda _: None,
    ) -> None:
        try:
            brought = ForeignStream(interface=interface, initiator=initiator, slow=True, link=LinkKind.BLE)
            sock = await link_socket.connect(self._socket_path, brought, ahead_bytes=splice.AHEAD_BYTES)
        except OSError:
            self._reporter.count("relay_unreachable")
        else:
            if not await splice.splice(stream, sock, moved):
                self._reporter.count("slow_reader")
        finally:
            stream.close()

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        if self._tasks is None:  # pragma: no cover - nobody comes before the listener is there
            raise RuntimeError("the server does not run")
        self._tasks.create_task(work)

    def _accepted(self) -> None:
        self._reporter.count("clients_accepted")
        self._measure()

    def _measure(self) -> None:
        self._reporter.gauge("clients", len(self._channels) + len(self._places))
        self._reporter.gauge("slots_used", len(self._places))
