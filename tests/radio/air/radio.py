# SPDX-License-Identifier: GPL-2.0-or-later
"""One controller: bumble answers the host's commands, and here is what it leaves out or gets wrong about the air.

bumble 0.0.236 connects with advertisers that are not there or already taken, never cancels, keeps everything at a
reset, completes packets before they are sent, sends no scan requests, and finds a connection by addresses that BlueZ
changes in its course. It is right for one connection at a time; relays have seven and more.
"""

from __future__ import annotations

import asyncio
import struct
from dataclasses import dataclass

from bumble import controller as bumble
from bumble import hci, ll
from bumble.core import PhysicalTransport
from bumble.transport.common import PacketParser

from tests.radio.air import capture

H4_ACL = 0x02
#: Payload of one link layer packet with the data length extension.
PACKET_BYTES = 251
#: Links at once, as of the better USB adapters.
DEFAULT_LINKS = 16
#: Packets that the host may hand over unsent, all links together.
BUFFERS = 24
#: Advertising is a little irregular, so that two do not collide for ever (volume 6, part B, 4.4.2.2).
ADVERTISING_JITTER_S = 0.010
RSSI_DBM = -60
ENHANCED_CONNECTION_COMPLETE_BIT = 1 << 9

Properties = hci.HCI_LE_Set_Extended_Advertising_Parameters_Command.AdvertisingProperties
EventType = hci.HCI_LE_Extended_Advertising_Report_Event.EventType


@dataclass(frozen=True, slots=True, kw_only=True)
class Initiation:
    """What a central asks for; interval and timeout in the units of HCI."""

    own_address: hci.Address
    interval: int
    latency: int
    timeout: int


@dataclass(frozen=True, slots=True)
class Data:
    """A piece of an L2CAP packet, its first or a later one."""

    start: bool
    payload: bytes

    def record(self, to, access_address, *, from_central):
        kind = capture.START if self.start else capture.CONTINUATION
        to.data(access_address, kind, self.payload, from_central=from_central)


@dataclass(frozen=True, slots=True)
class Control:
    """A link layer control packet; of these only the end is recorded, the others carry nothing that varies."""

    pdu: ll.ControlPdu

    def record(self, to, access_address, *, from_central):
        if isinstance(self.pdu, ll.TerminateInd):
            payload = bytes((capture.TERMINATE_IND, self.pdu.error_code))
            to.data(access_address, capture.CONTROL, payload, from_central=from_central)


class End:
    """One radio's end of a connection; takes the place of bumble's link."""

    def __init__(self, radio, shared, connection):
        self.radio = radio
        self.gone = False
        self.connection = connection
        self._shared = shared
        connection.link = self
        shared.add_end(self)

    def send_data(self, start, payload):
        self._shared.send(self, Data(start, payload), len(payload), self._sent)

    def send_ll_control_pdu(self, sender_address, receiver_address, packet):  # noqa: ARG002 - bumble's own
        if isinstance(packet, ll.ConnectionUpdateInd):
            self._shared.update(packet.interval, packet.timeout)
        self._shared.send(self, Control(packet), 2, lambda: None)

    def receive(self, packet):
        if self.gone:
            return
        if isinstance(packet, Control):
            if isinstance(packet.pdu, ll.TerminateInd):
                self._shared.closed(self)
            self.radio.on_ll_control_pdu(self.connection.peer_address, packet.pdu)
        else:
            self.radio.send_acl(self.connection.handle, packet)

    def lost(self):
        self.radio.on_le_disconnected(self.connection, hci.HCI_ErrorCode.CONNECTION_TIMEOUT_ERROR)

    def leave(self):
        self._shared.leave(self)

    def close(self):
        self._shared.closed(self)

    def _sent(self):
        if not self.gone:
            self.radio.send_hci_packet(
                hci.HCI_Number_Of_Completed_Packets_Event(
                    connection_handles=[self.connection.handle], num_completed_packets=[1]
                )
            )


class Advertiser:
    """What one of bumble's advertising sets sends."""

    def __init__(self, advertising_set):
        self._set = advertising_set
        properties = Properties(advertising_set.parameters.advertising_event_properties)
        self.connectable = Properties.CONNECTABLE_ADVERTISING in properties
        self.scannable = Properties.SCANNABLE_ADVERTISING in properties
        self.address = advertising_set.address
        self.data = bytes(advertising_set.data)
        self.scan_response = bytes(advertising_set.scan_response_data)

    @property
    def kind(self):
        if self.connectable:
            return capture.ADV_IND
        return capture.ADV_SCAN_IND if self.scannable else capture.ADV_NONCONN_IND

    @property
    def event_type(self):
        return (
            EventType.LEGACY_ADVERTISING_PDU_USED
            | (EventType.CONNECTABLE_ADVERTISING if self.connectable else 0)
            | (EventType.SCANNABLE_ADVERTISING if self.scannable else 0)
        )

    @property
    def handle(self):
        return self._set.handle

    def stop(self):
        self._set.stop()


class Radio(bumble.Controller):
    le_acl_data_packet_length = PACKET_BYTES
    total_num_le_acl_data_packets = BUFFERS
    supported_max_tx_octets = supported_max_rx_octets = suggested_max_tx_octets = PACKET_BYTES
    # Nothing that the air does not do.
    le_features = bumble.Controller.le_features & ~(
        hci.LeFeatureMask.LE_CODED_PHY | hci.LeFeatureMask.LE_PERIODIC_ADVERTISING | hci.LeFeatureMask.LL_PRIVACY
    )

    # The kernel looks here whether it may use the extended kind of scanning and connecting.
    supported_commands = bumble.Controller.supported_commands | {
        hci.HCI_LE_SET_EXTENDED_SCAN_PARAMETERS_COMMAND,
        hci.HCI_LE_SET_EXTENDED_SCAN_ENABLE_COMMAND,
        hci.HCI_LE_EXTENDED_CREATE_CONNECTION_COMMAND,
    }

    def __init__(self, medium, name, address, *, links=DEFAULT_LINKS):
        super().__init__(name, link=None, public_address=address)
        # bumble refuses commands without one; what it would do with it is overridden.
        self.link = self
        self.plugged = True
        self.controllers = ()
        self._medium = medium
        self._links = links
        self._line = None
        self._parser = PacketParser(self)
        self._writable = asyncio.Event()
        self._writable.set()
        self._seen = set()

    # -- the serial line --------------------------------------------------

    def connection_made(self, transport):
        self._line = transport

    def connection_lost(self, _error):
        # The guest is off.
        self.unplug()

    def eof_received(self):
        return False

    def data_received(self, data):
        if self.plugged:
            self._parser.feed_data(data)

    def pause_writing(self):
        self._writable.clear()

    def resume_writing(self):
        self._writable.set()

    async def wait_writable(self):
        await self._writable.wait()

    def plug(self, address):
        """Into its guest, fresh from the shop or with another address."""
        self.unplug()
        self.public_address = hci.Address(address, hci.Address.PUBLIC_DEVICE_ADDRESS)
        self._parser.reset()
        self.plugged = True

    def unplug(self):
        self._forget()
        self.plugged = False
        self._medium.range_changed()

    def close(self):
        self.unplug()
        self._line.abort()

    def on_packet(self, packet):
        if packet[0] != H4_ACL:
            super().on_packet(packet)
            return
        flags, _length = struct.unpack_from("<HH", packet, 1)
        connection = self.find_le_connection_by_handle(flags & 0x0FFF)
        # Those of a connection that ended meanwhile count as given back (volume 4, part E, 4.3).
        if connection is not None:
            connection.link.send_data(start=flags >> 12 & 3 != 1, payload=packet[5:])

    def send_hci_packet(self, packet):
        if self.plugged:
            self._line.write(bytes(packet))

    def send_acl(self, handle, data):
        flags = handle | (2 if data.start else 1) << 12
        if self.plugged:
            self._line.write(struct.pack("<BHH", H4_ACL, flags, len(data.payload)) + data.payload)

    # -- the host's commands ----------------------------------------------

    def on_hci_reset_command(self, command):
        self._forget()
        return super().on_hci_reset_command(command)

    def _forget(self):
        for advertising_set in self.advertising_sets.values():
            advertising_set.stop()
        self.advertising_sets.clear()
        self.le_legacy_advertiser.stop()
        self.le_scan_enable = False
        self.pending_le_connection = None
        self._seen.clear()
        for connection in list(self.le_connections.values()):
            connection.link.leave()
        self.le_connections.clear()

    def on_hci_le_set_extended_advertising_parameters_command(self, command):
        if Properties.USE_LEGACY_ADVERTISING_PDUS not in Properties(command.advertising_event_properties):
            error = hci.HCI_ErrorCode.UNSUPPORTED_FEATURE_OR_PARAMETER_VALUE_ERROR
            return hci.HCI_LE_Set_Extended_Advertising_Parameters_ReturnParameters(status=error, selected_tx_power=0)
        return super().on_hci_le_set_extended_advertising_parameters_command(command)

    def on_hci_le_set_extended_advertising_enable_command(self, command):
        sets = [
            self.advertising_sets[handle] for handle in command.advertising_handles if handle in self.advertising_sets
        ]
        if command.enable and not self.has_room and any(Advertiser(each).connectable for each in sets):
            return hci.HCI_StatusReturnParameters(hci.HCI_ErrorCode.CONNECTION_LIMIT_EXCEEDED_ERROR)
        for advertising_set in sets:
            # Enabled twice it would send twice.
            advertising_set.stop()
        return super().on_hci_le_set_extended_advertising_enable_command(command)

    def on_hci_le_set_extended_scan_parameters_command(self, command):
        self.le_scan_type = command.scan_types[0]
        return super().on_hci_le_set_extended_scan_parameters_command(command)

    def on_hci_le_set_extended_scan_enable_command(self, command):
        self._seen.clear()
        return super().on_hci_le_set_extended_scan_enable_command(command)

    def on_hci_le_extended_create_connection_command(self, command):
        error = None
        if command.peer_address in self.le_connections:
            error = hci.HCI_ErrorCode.CONNECTION_ALREADY_EXISTS_ERROR
        elif not self.has_room:
            error = hci.HCI_ErrorCode.CONNECTION_LIMIT_EXCEEDED_ERROR
        if error is None:
            super().on_hci_le_extended_create_connection_command(command)
        else:
            self._send_hci_command_status(error, command.op_code)

    def on_hci_le_create_connection_cancel_command(self, command):
        if (pending := self.pending_le_connection) is None:
            return hci.HCI_StatusReturnParameters(hci.HCI_ErrorCode.COMMAND_DISALLOWED_ERROR)
        self.pending_le_connection = None
        # After the answer to the command.
        asyncio.get_running_loop().call_soon(
            self._connection_complete,
            hci.HCI_ErrorCode.UNKNOWN_CONNECTION_IDENTIFIER_ERROR, 0, hci.Role.CENTRAL, pending.peer_address, 0, 0, 0,
        )  # fmt: skip
        return super().on_hci_le_create_connection_cancel_command(command)

    def on_hci_disconnect_command(self, command):
        connection = self.find_le_connection_by_handle(command.connection_handle)
        if connection is None:
            error = hci.HCI_ErrorCode.UNKNOWN_CONNECTION_IDENTIFIER_ERROR
            self._send_hci_command_status(error, command.op_code)
            return
        self._send_hci_command_status(hci.HCI_COMMAND_STATUS_PENDING, command.op_code)
        connection.send_ll_control_pdu(ll.TerminateInd(command.reason))
        connection.link.close()
        self.on_le_disconnected(connection, hci.HCI_ErrorCode.CONNECTION_TERMINATED_BY_LOCAL_HOST_ERROR)

    # -- for the medium ---------------------------------------------------

    @property
    def has_room(self):
        return len(self.le_connections) < self._links

    def is_connected_to(self, address):
        return address in self.le_connections

    @property
    def scan_address(self):
        public = self.le_scan_own_address_type == hci.AddressType.PUBLIC_DEVICE
        return self.public_address if public else self.random_address

    def send_advertising_pdu(self, packet):
        """One of bumble's advertising timers has fired."""
        for advertising_set in self.advertising_sets.values():
            if advertising_set.enabled and advertising_set.address == packet.advertiser_address:
                advertiser = Advertiser(advertising_set)
                delay_s = self._medium.rng.uniform(0, ADVERTISING_JITTER_S)
                asyncio.get_running_loop().call_later(delay_s, self._advertise, advertising_set, advertiser)
                return

    def _advertise(self, advertising_set, advertiser):
        if advertising_set.enabled:
            self._medium.advertise(self, advertiser)

    def heard(self, advertiser):
        if self.le_scan_enable:
            self._report(advertiser.event_type, advertiser.address, advertiser.data)

    def heard_response(self, advertiser):
        self._report(advertiser.event_type | EventType.SCAN_RESPONSE, advertiser.address, advertiser.scan_response)

    def scans_actively(self, address):
        """Whether it would send a scan request to this advertiser: with the filter on, once."""
        active = (
            self.le_scan_enable and self.le_scan_type == hci.HCI_LE_Set_Extended_Scan_Parameters_Command.ACTIVE_SCANNING
        )
        return active and not (self.filter_duplicates and any(seen[:2] == (True, address) for seen in self._seen))

    def _report(self, event_type, address, data):
        # Some chips filter by address alone, and so never tell that the data has changed. Here it is the better kind.
        seen = (EventType.SCAN_RESPONSE in EventType(event_type), address, data)
        if self.filter_duplicates and seen in self._seen:
            return
        self._seen.add(seen)
        report = hci.HCI_LE_Extended_Advertising_Report_Event.Report(
            event_type=event_type,
            address_type=address.address_type,
            address=address,
            primary_phy=hci.Phy.LE_1M,
            secondary_phy=0,
            advertising_sid=0xFF,
            tx_power=0x7F,
            rssi=RSSI_DBM,
            periodic_advertising_interval=0,
            direct_address_type=0,
            direct_address=hci.Address.ANY,
            data=data,
        )
        self.send_hci_packet(hci.HCI_LE_Extended_Advertising_Report_Event([report]))

    def initiates_to(self, address):
        pending = self.pending_le_connection
        return pending is not None and pending.peer_address == address and address not in self.le_connections

    def initiation(self):
        pending = self.pending_le_connection
        public = pending.own_address_type == hci.OwnAddressType.PUBLIC
        return Initiation(
            own_address=self.public_address if public else self.random_address,
            interval=pending.connection_interval_mins[0],
            latency=pending.max_latencies[0],
            timeout=pending.supervision_timeouts[0],
        )

    def connected_as_central(self, shared, address, request):
        self.pending_le_connection = None
        self._connected(shared, hci.Role.CENTRAL, request.own_address, address, request)

    def connected_as_peripheral(self, shared, advertiser, request):
        advertiser.stop()
        handle = self._connected(shared, hci.Role.PERIPHERAL, advertiser.address, request.own_address, request)
        self.send_hci_packet(
            hci.HCI_LE_Advertising_Set_Terminated_Event(
                status=hci.HCI_ErrorCode.SUCCESS,
                advertising_handle=advertiser.handle,
                connection_handle=handle,
                num_completed_extended_advertising_events=0,
            )
        )

    def _connected(self, shared, role, own, peer, request):
        connection = bumble.Connection(
            controller=self,
            handle=self.allocate_connection_handle(),
            role=role,
            self_address=own,
            peer_address=peer,
            link=None,
            transport=PhysicalTransport.LE,
            link_type=hci.HCI_Connection_Complete_Event.LinkType.ACL,
        )
        self.le_connections[peer] = connection
        End(self, shared, connection)
        self._connection_complete(
            hci.HCI_ErrorCode.SUCCESS, connection.handle, role, peer, request.interval, request.latency, request.timeout
        )
        return connection.handle

    def _connection_complete(self, status, handle, role, peer, interval, latency, timeout):
        fields = {
            "status": status,
            "connection_handle": handle,
            "role": role,
            "peer_address_type": peer.address_type,
            "peer_address": peer,
            "connection_interval": interval,
            "peripheral_latency": latency,
            "supervision_timeout": timeout,
            "central_clock_accuracy": 0,
        }
        # The one takes the other's place (volume 4, part E, 7.7.65.10), and Linux waits for none but that.
        if self.le_event_mask & ENHANCED_CONNECTION_COMPLETE_BIT:
            event = hci.HCI_LE_Enhanced_Connection_Complete_Event(
                **fields,
                local_resolvable_private_address=hci.Address.ANY_RANDOM,
                peer_resolvable_private_address=hci.Address.ANY_RANDOM,
            )
        else:
            event = hci.HCI_LE_Connection_Complete_Event(**fields)
        self.send_hci_packet(event)

    def on_address_changed(self, controller):
        """Nothing hangs on it here; bumble tells its link."""
