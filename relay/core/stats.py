# SPDX-License-Identifier: GPL-2.0-or-later
"""What the relay counts: plain integers, keyed by enums, so that no name of a peer can become a label.

Each reason that something was refused, dropped or failed is a member of an enum
here, and each member is counted from zero on: a series that is absent until its
first event hides that event from a rate. :mod:`relay.run.metrics` turns the
counts into Prometheus families.
"""

from __future__ import annotations

import enum
from bisect import bisect_left

#: Interfaces with counts of their own. A USB adapter that comes back under a new
#: name each time must not grow memory for ever: later ones share one row, OTHER.
#: A row is under 4 KiB, so all rows are under 256 KiB.
MAX_LINK_ROWS = 64
#: The interface under which links beyond MAX_LINK_ROWS, and those without one, are counted.
OTHER = "other"
#: The interface by which only this machine comes.
LOOPBACK = "lo"


class Reason(enum.Enum):
    """Base of the enums below; the value is the label in the metrics."""

    # Members are compared by identity, so the cheap hash is the right one; equal
    # labels of different families stay different keys.
    __hash__ = object.__hash__

    def __str__(self) -> str:
        return str(self.value)


class Total(Reason):
    """Things that happen to envelopes and need no reason."""

    ACCEPTED = "accepted"  # new, admitted and committed
    DUPLICATE = "duplicate"  # received again while held
    FORWARDED = "forwarded"  # body handed to a peer relay or fetched by a client
    EXPIRED = "expired"  # left at its expiry or at the end of its residence
    PURGED = "purged"  # removed by a purge envelope
    RETURNED = "returned"  # of those accepted: had to leave for others once
    RECONCILED = "reconciled"  # reconciliations finished
    RECONCILE_FALLBACK = "reconcile_fallback"  # ... that ended in a list of IDs


class Rejected(Reason):
    """Why an envelope was not admitted."""

    MALFORMED = "malformed"
    WRONG_SIZE = "wrong_size"
    VERSION = "version"
    EXPIRED = "expired"
    FAR_FUTURE = "far_future"
    BELOW_FLOOR = "below_floor"
    UNDERPAID = "underpaid"
    FULL = "full"
    HOURS = "hours"
    CLASS = "class"
    PURGED = "purged"  # a purge that removes it came first
    GONE = "gone"  # admitted once, left since
    STORAGE = "storage"  # the disk is full, broken or read-only


class Evicted(Reason):
    """Why an admitted envelope left before its time."""

    PRICE = "price"
    LIMIT = "limit"  # the operator lowered the limits
    DAMAGED = "damaged"  # its body, when read, was not there or was another; or lost with a part of the store's log


class Trouble(Reason):
    """What the medium did, beside refusing a commit."""

    READ_FAILED = "read_failed"  # a body could not be read this time; it may well be there
    HEADER_DAMAGED = "header_damaged"  # found at the start: a row that is left out, as its header is none


class HandshakeFailure(Reason):
    """Why a connection never became a session."""

    VERSION = "version"
    DECRYPT = "decrypt"
    TRUNCATED = "truncated"
    OVERSIZED = "oversized"
    LOW_ORDER_KEY = "low_order_key"
    TIMEOUT = "timeout"
    SECRET_REQUIRED = "secret_required"  # noqa: S105 - a label, not a secret
    SELF = "self"
    WRONG_KEY = "wrong_key"  # not the static key that the operator pinned
    TOO_MANY = "too_many"
    BAD_HELLO = "bad_hello"
    BAD_PREAMBLE = "bad_preamble"  # of a foreign stream


class SessionError(Reason):
    """Why a session ended, or what a peer did wrong in one."""

    GARBAGE_FRAME = "garbage_frame"
    OVERSIZED_FRAME = "oversized_frame"
    REPLAY = "replay"  # a record that does not decrypt at its position
    PROTOCOL = "protocol"  # a frame that its state does not allow
    DECODE = "decode"
    TIMEOUT_IDLE = "timeout_idle"
    STALLED = "stalled"  # gave nothing of what it had offered
    SLOW_READER = "slow_reader"
    LIMIT_EXCEEDED = "limit_exceeded"
    UNWANTED_ENVELOPE = "unwanted_envelope"
    MEMORY = "memory"  # it held most when all sessions together held too much
    CONNECTION_LOST = "connection_lost"
    CONNECT_FAILED = "connect_failed"
    GOODBYE = "goodbye"


#: Of these, how sessions end where all is well: people say goodbye, walk away (also in the midst of giving what they
#: offered) or switch off.
ENDS: frozenset[SessionError] = frozenset(
    {
        SessionError.GOODBYE,
        SessionError.CONNECTION_LOST,
        SessionError.TIMEOUT_IDLE,
        SessionError.SLOW_READER,
        SessionError.STALLED,
    }
)
#: What happens all day where all is well and ends no session: a neighbour that is switched off is dialled, and two
#: give the same. The rest are errors, at which an operator should look.
USUAL: frozenset[SessionError] = frozenset({SessionError.CONNECT_FAILED, SessionError.UNWANTED_ENVELOPE})
ERRORS: frozenset[SessionError] = frozenset(SessionError) - ENDS - USUAL


class Dropped(Reason):
    """What a bounded queue let go of, to be offered or reconciled again later."""

    REQUEST_TIMEOUT = "request_timeout"
    DISCOVERED_FULL = "discovered_full"  # an announcement beyond the bound of a segment
    ADMITTED_FULL = "admitted_full"  # the identity of what has left, forgotten before its time


class LiveTotal(Reason):
    """What became of live datagrams."""

    HANDED_OVER = "handed_over"  # new, of a gateway here
    RECEIVED = "received"  # new, of a neighbour
    DUPLICATE = "duplicate"  # seen before
    SENT = "sent"  # to a neighbour, each time
    DELIVERED = "delivered"  # to a gateway here, each time


class LiveDropped(Reason):
    """Why live datagrams went no further, or not to somebody."""

    RATE = "rate"  # beyond the rate of the interface or gateway that they came by
    QUEUE_FULL = "queue_full"  # later ones took their place before the neighbour had them
    LATE = "late"  # they waited for a neighbour until they were no news any more
    LINK_LOST = "link_lost"  # the session ended before
    HOPS = "hops"  # so many relays had passed them on that no more may
    UNREAD = "unread"  # a gateway does not read


class UpdateTotal(Reason):
    """What became of newer software between relays."""

    OFFERED = "offered"  # told to a neighbour, each time
    HEARD = "heard"  # of a neighbour, each time
    GIVEN = "given"  # parts, to neighbours
    TAKEN = "taken"  # parts, of neighbours
    WRITTEN = "written"  # whole updates, into the other slot
    STAYED = "stayed"  # a neighbour was told that it may start anew
    DID_NOT_STAY = "did_not_stay"  # ... and that it may not


class UpdateRefused(Reason):
    """Why newer software of a neighbour, or a part of it, was not taken, or not given."""

    WRONG_PIECE = "wrong_piece"  # its hash is not the one that was signed, or the head's not the one that was offered
    TIMEOUT = "timeout"  # a neighbour did not give what it offered in time
    NOT_HERE = "not_here"  # a neighbour has it no more
    LATE = "late"  # a part that came when it was fetched from another one already
    UNREADABLE = "unreadable"  # our own copy could not be read for a neighbour
    CUT_OFF = "cut_off"  # the taking ended; it goes on where it was
    # What `relay slot` says of a whole update; words of relay.board.manifest.REASONS.
    DAMAGED = "damaged"
    UNSIGNED = "unsigned"
    WRONG_KEY = "wrong_key"
    BAD_SIGNATURE = "bad_signature"
    OTHER_BOARD = "other_board"
    OLDER = "older"
    SAME = "same"
    TOO_LARGE = "too_large"
    FAILED = "failed"
    ON_TRIAL = "on_trial"
    READ = "read"
    WRITE = "write"


class HttpRefused(Reason):
    """Why a request to the pages was turned away, or its connection closed."""

    BAD_REQUEST = "bad_request"  # not HTTP, or beyond the bounds of its parts
    HOST = "host"  # a name that is not ours: a web site elsewhere may have sent the browser here
    PLACE = "place"  # the oldest connection of the address with the most gave way to a newcomer
    STRANGER = "stranger"  # no token, from where one is needed
    TOKEN = "token"  # noqa: S105 - a label; a wrong one was given
    GUESSES = "guesses"  # so many wrong ones that none is looked at for a while
    ORIGIN = "origin"  # a change that another site's page asked for


class Download(Reason):
    """How a download from the shelf ended, or why it did not begin."""

    WHOLE = "whole"  # all that was asked for was taken
    BUSY = "busy"  # all places are taken
    GREEDY = "greedy"  # all that one address may have
    STALLED = "stalled"  # the reader took nothing for too long
    TOO_LONG = "too_long"
    GONE = "gone"  # the reader closed
    UNREADABLE = "unreadable"  # the card did not give it


class LinkKind(Reason):
    """The kinds of link; the value of the label `link`."""

    TCP = "tcp"
    UNIX = "unix"
    BLE = "ble"  # streams that `relay ble` brings
    DNSSD = "dnssd"


class Histogram(Reason):
    """The distributions kept; :data:`BOUNDS` has the buckets."""

    FORWARD_LATENCY_S = "forward_latency_seconds"  # arrival to hand-over to who was there when it came
    RESIDENCE_S = "residence_seconds"  # arrival to departure, whatever the cause
    COMMIT_S = "commit_seconds"  # of one transaction, its sync included


#: Upper bounds in seconds: forwarding from a millisecond (a hop takes 10) to hours (a radio that is full); residence
#: from a minute to the longest lifetime; a commit from a fast disk to a card that is dying.
BOUNDS: dict[Histogram, tuple[float, ...]] = {
    Histogram.FORWARD_LATENCY_S: (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0, 600.0, 3600.0, 14400.0),
    Histogram.RESIDENCE_S: (60.0, 600.0, 3600.0, 21600.0, 86400.0, 259200.0, 432000.0, 604800.0),
    Histogram.COMMIT_S: (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0),
}

#: The enums whose members :meth:`Stats.add` takes. A new reason is a new member of
#: one, and appears in status and metrics by itself.
FAMILIES: tuple[type[Reason], ...] = (
    *(Total, Rejected, Evicted, Trouble),
    *(HandshakeFailure, Dropped, HttpRefused, Download, LiveTotal, LiveDropped, UpdateTotal, UpdateRefused),
)


class Distribution:
    """A histogram: ``counts[i]`` observations at most ``bounds[i]``, the last of ``counts`` beyond all."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one observation; a negative one (a clock that went back) counts as zero."""
        value = max(value, 0.0)
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def above(self, bound: float) -> int:
        """How many were above one of the bounds."""
        return sum(self.counts[self.bounds.index(bound) + 1 :])


class LinkStats:
    """Counts of one kind of link on one interface; sessions hold it and add to its attributes."""

    __slots__ = (
        "airtime_s",
        "bytes_in",
        "bytes_out",
        "errors",
        "frames_in",
        "frames_out",
        "interface",
        "kind",
        "restarts",
    )

    def __init__(self, kind: LinkKind, interface: str) -> None:
        self.kind = kind
        self.interface = interface
        self.bytes_in = 0
        self.bytes_out = 0
        self.frames_in = 0
        self.frames_out = 0
        self.restarts = 0
        #: Of the time that the operator gave this interface, what was used; None where it has no bound.
        self.airtime_s: float | None = None
        self.errors: dict[SessionError, int] = dict.fromkeys(SessionError, 0)

    def error(self, reason: SessionError) -> None:
        """Count the end of a session, or what a peer did wrong in it."""
        self.errors[reason] += 1

    def use_airtime(self, seconds: float) -> None:
        """Add to what was used."""
        self.airtime_s = (self.airtime_s or 0.0) + seconds


class Stats:
    """All counts of one relay; made once and handed to whoever counts."""

    __slots__ = ("_counts", "_histograms", "_links")

    def __init__(self) -> None:
        self._counts: dict[Reason, int] = {member: 0 for family in FAMILIES for member in family}
        self._histograms = {histogram: Distribution(BOUNDS[histogram]) for histogram in Histogram}
        self._links: dict[tuple[LinkKind, str], LinkStats] = {}

    def add(self, reason: Reason, amount: int = 1) -> None:
        """Count ``amount`` more of a member of one of :data:`FAMILIES`."""
        self._counts[reason] += amount

    def get(self, reason: Reason) -> int:
        """How often ``reason`` was counted."""
        return self._counts[reason]

    def by_label(self, family: type[Reason]) -> dict[str, int]:
        """The counts of one enum by label, zeros included."""
        return {member.value: self._counts[member] for member in family}

    def totals(self) -> dict[str, dict[str, int]]:
        """Every count by family and label, zeros included."""
        return {
            "total": self.by_label(Total),
            "rejected": self.by_label(Rejected),
            "evicted": self.by_label(Evicted),
            "medium": self.by_label(Trouble),
            "handshake_failures": self.by_label(HandshakeFailure),
            "dropped": self.by_label(Dropped),
            "live": self.by_label(LiveTotal),
            "live_dropped": self.by_label(LiveDropped),
            "updates": self.by_label(UpdateTotal),
            "updates_refused": self.by_label(UpdateRefused),
            "http_refused": self.by_label(HttpRefused),
        }

    def observe(self, histogram: Histogram, value: float) -> None:
        """Add one observation, in the unit of the histogram's name."""
        self._histograms[histogram].observe(value)

    def distribution(self, histogram: Histogram) -> Distribution:
        """The buckets of ``histogram``."""
        return self._histograms[histogram]

    def link(self, kind: LinkKind, interface: str = OTHER) -> LinkStats:
        """The counts of a link; the same object each time, so that they survive its restarts."""
        if (kind, interface) not in self._links and len(self._links) >= MAX_LINK_ROWS:
            interface = OTHER
        return self._links.setdefault((kind, interface), LinkStats(kind, interface))

    def links(self) -> list[LinkStats]:
        """Every link counted so far, in order of appearance."""
        return list(self._links.values())
