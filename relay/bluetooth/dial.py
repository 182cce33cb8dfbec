# SPDX-License-Identifier: GPL-2.0-or-later
"""From a relay that was heard to a stream to it, as the central (docs/ble.md sections 3 to 5).

For `relay ble`, which dials its neighbours, and for clients. Whatever happens half-way, the connection is
ended and bluetoothd forgets the device: it would write its address to disk otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import secrets
from typing import TYPE_CHECKING, Final

from relay.bluetooth import gatt, l2cap
from relay.bluetooth.bluez import BluezError, BluezFailure, Changed, characteristics, is_lost
from relay.bluetooth.slot_frames import CloseReason
from relay.bluetooth.slots import Slot
from relay.bluetooth.stream import ChannelStream, SlotStream
from relay.core.errors import DecodeError, RelayError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from relay.bluetooth.bluez import Bluez, Device, Event
    from relay.bluetooth.l2cap import BluetoothAddress
    from relay.bluetooth.stream import Stream

#: Until the other side is heard once more and connected: a relay advertises about once a second.
LINK_TIMEOUT_S: Final = 8.0
#: ... and then for the discovery of services: 3 s with the connection as measured, several times that with loss.
CONNECT_TIMEOUT_S: Final = 20.0
#: On a connection that stands: 40 ms as measured.
CHANNEL_TIMEOUT_S: Final = 8.0
#: For the last frames of a slot, and for bluetoothd to hang up.
CLOSE_TIMEOUT_S: Final = 3.0


class DialFailure(enum.Enum):
    """Why there is no stream."""

    TIMEOUT = "timeout"
    #: Out of range, switched off, or bluetoothd does not want to.
    FAILED = "failed"
    BUSY = "busy"
    #: No relay, or one of a version that we do not know.
    UNUSABLE = "unusable"


class DialError(RelayError):
    """No stream; `failure` says why. The text holds no address."""

    def __init__(self, failure: DialFailure, text: str) -> None:
        super().__init__(text)
        self.failure = failure


class DialledRelay:
    """A relay with which we have a Bluetooth connection; gives streams, one at a time. Made by `dial`."""

    def __init__(
        self,
        bluez: Bluez,
        own: BluetoothAddress,
        peer: BluetoothAddress,
        device_path: str,
        table: dict[str, tuple[str, int]],
        info: gatt.Info,
    ) -> None:
        """Use `dial`."""
        self._bluez = bluez
        self._own = own
        self._peer = peer
        self._path = device_path
        self._table = table
        self._info = info
        self.is_lost = False
        """Whether the connection is over, rather than a stream on it."""

    @contextlib.asynccontextmanager
    async def stream(self, *, channel: bool = True) -> AsyncIterator[Stream]:
        """Open a stream: a channel if the relay has one and `channel` allows it, else a slot. DialError."""
        if channel and self._info.psm:
            try:
                async with asyncio.timeout(CHANNEL_TIMEOUT_S):
                    sock = await l2cap.connect(self._own, self._peer, self._info.psm)
                stream = ChannelStream(sock)
            except OSError as error:  # a timeout is one, too
                if not self._info.slots:
                    raise DialError(DialFailure.FAILED, "the relay's channel cannot be opened") from error
            else:
                try:
                    yield stream
                finally:
                    stream.close()
                return
        async with self._slot_stream() as slot_stream:
            yield slot_stream

    @contextlib.asynccontextmanager
    async def _slot_stream(self) -> AsyncIterator[SlotStream]:
        with _dial_errors():
            value = await self._bluez.read(self._characteristic(gatt.SLOT_UUID)[0])
            slot = value[0] if len(value) == 1 else gatt.NO_SLOT
            if slot >= len(gatt.TX_UUIDS):
                raise DialError(DialFailure.BUSY, "the relay has no slot free")
            tx_path, _ = self._characteristic(gatt.TX_UUIDS[slot])
            rx_path, mtu_bytes = self._characteristic(gatt.RX_UUID)
        # At most a window and some acknowledgements wait here: the slot sends no more.
        frames: asyncio.Queue[bytes] = asyncio.Queue()

        def transmit(values: list[bytes]) -> None:
            for one in values:
                frames.put_nowait(one)

        def look(event: Event) -> None:
            if is_lost(event, self._path):
                stream.abort(CloseReason.TIMEOUT)
            elif (
                isinstance(event, Changed)
                and event.path == tx_path
                and isinstance(frame := event.properties.get("Value"), bytes)
            ):
                stream.frame_received(frame)

        stream = SlotStream(
            Slot(
                is_central=True,
                nonce=secrets.randbelow(256),
                frame_bytes=gatt.frame_bytes(max(mtu_bytes, gatt.DEFAULT_MTU_BYTES)),
            ),
            transmit,
        )
        writing = asyncio.ensure_future(self._write(rx_path, frames, stream))
        try:
            with self._bluez.listening(look):
                with _dial_errors():
                    await self._bluez.start_notify(tx_path)
                stream.open()
                try:
                    yield stream
                finally:
                    stream.close()
                    # CLOSE frees the slot at once.
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(CLOSE_TIMEOUT_S):
                            await frames.join()
        finally:
            writing.cancel()
            await asyncio.wait({writing})
            with contextlib.suppress(BluezError):
                await self._bluez.stop_notify(tx_path)

    async def _write(self, path: str, frames: asyncio.Queue[bytes], stream: SlotStream) -> None:
        while True:
            frame = await frames.get()
            try:
                await self._bluez.write_command(path, frame)
            except BluezError:
                # The connection is gone, or soon will be. What is left is taken, so that nobody waits for it.
                stream.abort(CloseReason.TIMEOUT)
            finally:
                frames.task_done()

    def note(self, event: Event) -> None:
        """Take in what BlueZ says."""
        self.is_lost = self.is_lost or is_lost(event, self._path)

    def _characteristic(self, uuid: str) -> tuple[str, int]:
        try:
            return self._table[uuid]
        except KeyError:
            raise DialError(DialFailure.UNUSABLE, "the relay's service is not complete") from None


@contextlib.asynccontextmanager
async def dial(
    bluez: Bluez,
    adapter_path: str,
    own: BluetoothAddress,
    device: Device,
    *,
    as_relay: bool = False,
    on_linked: Callable[[], None] = lambda: None,
) -> AsyncIterator[DialledRelay]:
    """Connect to a relay from the adapter whose identity address is `own`; DialError.

    `as_relay` takes one of the places for relays, else it is one of those for phones. Nothing may be scanning until
    `on_linked` is called: controllers cannot do both. Several may be dialled at once: the kernel waits for an
    advertisement of any of them.
    """
    if device.is_connected:
        # It came to us; hanging up would end its session.
        raise DialError(DialFailure.BUSY, "the relay has connected to us")
    try:
        with _dial_errors():
            peer = l2cap.parse_address(device.address, device.address_type)
            await bluez.connect(
                device.path, link_timeout_s=LINK_TIMEOUT_S, timeout_s=CONNECT_TIMEOUT_S, on_linked=on_linked
            )
            table = characteristics(await bluez.objects(), device.path)
            info_uuid = gatt.RELAY_INFO_UUID if as_relay else gatt.INFO_UUID
            if info_uuid not in table:
                raise DialError(DialFailure.UNUSABLE, "the device is no relay")
            info = gatt.decode_info(await bluez.read(table[info_uuid][0]))
        if info.is_busy:
            raise DialError(DialFailure.BUSY, "the relay is busy")
        if not info.psm and not info.slots:
            raise DialError(DialFailure.UNUSABLE, "the relay offers neither a channel nor slots")
        relay = DialledRelay(bluez, own, peer, device.path, table, info)
        with bluez.listening(relay.note):
            yield relay
    finally:
        await _hang_up(bluez, adapter_path, device.path)


async def _hang_up(bluez: Bluez, adapter_path: str, device_path: str) -> None:
    # Of an attempt to connect that still runs, only Disconnect is the end.
    with contextlib.suppress(BluezError):
        await bluez.disconnect(device_path, timeout_s=CLOSE_TIMEOUT_S)
    with contextlib.suppress(BluezError):
        await bluez.forget(adapter_path, device_path, timeout_s=CLOSE_TIMEOUT_S)


@contextlib.contextmanager
def _dial_errors() -> Iterator[None]:
    try:
        yield
    except BluezError as error:
        failure = DialFailure.TIMEOUT if error.failure is BluezFailure.TIMEOUT else DialFailure.FAILED
        raise DialError(failure, f"the relay cannot be reached ({error})") from error
    except DecodeError as error:
        raise DialError(DialFailure.UNUSABLE, str(error)) from error
