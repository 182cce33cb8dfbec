# SPDX-License-Identifier: GPL-2.0-or-later
"""gossipsub 1.1 as far as a LAN needs it: who subscribes to what, meshes, messages passed on. Free of I/O.

Of the specification there are no scores and no exchange of peers: on a LAN all are found by multicast DNS, and whoever
floods is bounded by rates here. Meshes, gossip and backoff are as it says.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from relay.core.rate import Bucket, Rate
from relay.libp2p.gossipsub_message import Published, Rpc, sign

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from relay.libp2p.identity import Identity

#: The degrees of a mesh, as the specification recommends them.
D, D_LOW, D_HIGH, D_LAZY = 6, 5, 12, 6
HEARTBEAT_S: Final = 1.0
#: Messages of the last so many heartbeats can be asked for, and of these so many are told of.
_HISTORY, _GOSSIP = 5, 3
MAX_CACHED_BYTES: Final = 4 << 20
#: A message is recognised for so long.
SEEN_S: Final = 120.0
MAX_SEEN: Final = 16_384
BACKOFF_S: Final = 60
_MAX_BACKOFF_S: Final = 3600
#: Topics of one peer, and of all; a person's Berty has two for each group.
MAX_TOPICS_OF_PEER: Final = 1024
MAX_TOPICS: Final = 4096
#: Of one message, of which Berty's heads are some kB.
MAX_DATA_BYTES: Final = 256 << 10
#: What one peer may publish or pass on, and ask for again.
_MESSAGES: Final = Rate(per_s=50.0, burst=400.0)
_WANTS: Final = Rate(per_s=50.0, burst=500.0)
#: Control that a peer is answered.
_CONTROL: Final = Rate(per_s=100.0, burst=2_000.0)
#: What waits for one peer; beyond it is lost to him, and he is told of it by gossip.
MAX_WAITING_BYTES: Final = 2 << 20


class Subscribed(NamedTuple):
    """A peer has subscribed to a topic, or left it."""

    peer: bytes
    topic: str
    joined: bool


class Received(NamedTuple):
    """Somebody has published on a topic of ours; ``source``: the peer that it came from."""

    source: bytes
    message: Published


Event = Subscribed | Received


@dataclass(slots=True)
class _Peer:
    topics: set[str] = field(default_factory=set)
    out: deque[bytes] = field(default_factory=deque)
    out_bytes: int = 0
    messages: Bucket = None  # type: ignore[assignment]  # made with the time
    wants: Bucket = None  # type: ignore[assignment]
    control: Bucket = None  # type: ignore[assignment]


class Gossipsub:
    """The router of one host."""

    def __init__(
        self, identity: Identity, *, draw: Callable[[], float], count: Callable[..., None], seqno: int
    ) -> None:
        """``draw`` gives floats in [0, 1); ``seqno``: above all that this identity has used."""
        self._identity = identity
        self._draw = draw
        self._count = count
        self._seqno = seqno
        self._peers: dict[bytes, _Peer] = {}
        self._topics: set[str] = set()
        #: Who subscribes to a topic, and of these who is in our mesh of it.
        self._subscribers: dict[str, set[bytes]] = {}
        self._meshes: dict[str, set[bytes]] = {}
        self._backoff: dict[tuple[str, bytes], float] = {}
        self._seen: OrderedDict[bytes, float] = OrderedDict()
        self._cache: dict[bytes, Published] = {}
        self._cached_bytes = 0
        self._history: deque[list[bytes]] = deque([[]], maxlen=_HISTORY)

    # -- peers ------------------------------------------------------------------------

    def opened(self, peer: bytes, now: float) -> None:
        """Note a peer that speaks this: it hears what we subscribe to."""
        self._peers[peer] = _Peer(
            messages=Bucket(_MESSAGES, now), wants=Bucket(_WANTS, now), control=Bucket(_CONTROL, now)
        )
        self.greet(peer)

    def greet(self, peer: bytes) -> None:
        """Tell a peer all that we subscribe to."""
        topics = sorted(self._topics)
        for start in range(0, len(topics), 512):
            self._say(peer, Rpc(subscriptions=[(topic, True) for topic in topics[start : start + 512]]))

    def closed(self, peer: bytes) -> list[Event]:
        """Forget a peer."""
        gone = self._peers.pop(peer, None)
        if gone is None:
            return []
        # Whoever comes anew with another name would leave them behind for an hour.
        for key in [key for key in self._backoff if key[1] == peer]:
            del self._backoff[key]
        return [self._left(peer, topic) for topic in gone.topics]

    def _left(self, peer: bytes, topic: str) -> Subscribed:
        found = self._subscribers.get(topic)
        if found is not None:
            found.discard(peer)
            if not found:
                del self._subscribers[topic]
        self._meshes.get(topic, set()).discard(peer)
        return Subscribed(peer, topic, joined=False)

    def subscribers(self, topic: str) -> set[bytes]:
        """The peers that subscribe to a topic."""
        return self._subscribers.get(topic, set())

    def topics_of(self, peer: bytes) -> Iterable[str]:
        """What a peer subscribes to."""
        found = self._peers.get(peer)
        return found.topics if found is not None else ()

    @property
    def topic_count(self) -> int:
        """Topics that anybody here subscribes to."""
        return len(self._subscribers.keys() | self._topics)

    @property
    def topics(self) -> set[str]:
        """What we subscribe to."""
        return self._topics

    # -- what we do -------------------------------------------------------------------

    def subscribe(self, topic: str) -> bool:
        """Subscribe; False where we have too many."""
        if topic in self._topics:
            return True
        if len(self._topics) >= MAX_TOPICS:
            self._count("topics_refused")
            return False
        self._topics.add(topic)
        self._meshes[topic] = set()
        self._tell(topic, joined=True)
        self._fill(topic)
        return True

    def unsubscribe(self, topic: str) -> None:
        """Leave a topic."""
        if topic not in self._topics:
            return
        for peer in self._meshes.pop(topic):
            self._say(peer, Rpc(prune=[(topic, BACKOFF_S)]))
        self._topics.discard(topic)
        self._tell(topic, joined=False)

    def _tell(self, topic: str, *, joined: bool) -> None:
        for peer in self._peers:
            self._say(peer, Rpc(subscriptions=[(topic, joined)]))

    def publish(self, topic: str, data: bytes, now: float) -> None:
        """Publish, to all who subscribe: on a LAN they are few."""
        self._seqno += 1
        message = sign(self._identity, seqno=self._seqno, topic=topic, data=data)
        self._is_new(message.identity, now)
        self._remember(message)
        for peer in sorted(self.subscribers(topic)):
            self._say(peer, Rpc(published=[message]))

    # -- what peers say ---------------------------------------------------------------

    def receive(self, peer: bytes, rpc: Rpc, now: float) -> list[Event]:
        """Take what a peer says."""
        found = self._peers.get(peer)
        if found is None:
            return []
        events: list[Event] = []
        for topic, joined in rpc.subscriptions:
            self._on_subscription(peer, found, topic, joined=joined, events=events)
        for message in rpc.published:
            if not found.messages.take(1.0, now):
                self._count("published_limited")
            else:
                self._on_published(peer, message, now, events)
        answer = Rpc()
        if rpc.have or rpc.want or rpc.graft or rpc.prune:
            cost = len(rpc.have) + len(rpc.graft) + len(rpc.prune) + 1
            if found.control.take(float(cost), now):
                self._on_control(peer, found, rpc, answer, now)
            else:
                self._count("control_limited")
        if answer.published or answer.want or answer.prune:
            self._say(peer, answer)
        return events

    def _on_subscription(self, peer: bytes, found: _Peer, topic: str, *, joined: bool, events: list[Event]) -> None:
        if not joined:
            if topic in found.topics:
                found.topics.discard(topic)
                events.append(self._left(peer, topic))
            return
        if topic in found.topics:
            return
        is_new = topic not in self._subscribers
        if len(found.topics) >= MAX_TOPICS_OF_PEER or (is_new and len(self._subscribers) >= MAX_TOPICS):
            self._count("topics_refused")
            return
        found.topics.add(topic)
        self._subscribers.setdefault(topic, set()).add(peer)
        events.append(Subscribed(peer, topic, joined=True))
        # Not at the next heartbeat: what a peer publishes before goes to its mesh alone, and who is in that by then is
        # not told of it by gossip either.
        if topic in self._meshes:
            self._fill(topic)

    def _on_published(self, peer: bytes, message: Published, now: float, events: list[Event]) -> None:
        if message.topic not in self._topics:
            self._count("published_elsewhere")
        elif len(message.data) > MAX_DATA_BYTES:
            self._count("published_too_long")
        elif message.sender == self._identity.peer:
            self._count("published_own")
        elif message.identity in self._seen:
            self._count("published_known")
        elif not message.is_true():
            self._count("published_untrue")
        else:
            self._is_new(message.identity, now)
            self._count("published_taken")
            self._remember(message)
            for other in sorted(self._meshes[message.topic] - {peer, message.sender}):
                self._say(other, Rpc(published=[message]))
            events.append(Received(peer, message))

    def _on_control(self, peer: bytes, found: _Peer, rpc: Rpc, answer: Rpc, now: float) -> None:
        for topic in rpc.graft:
            mesh = self._meshes.get(topic)
            if mesh is None or peer in mesh:
                continue  # as the specification has it: no answer tells what we do not subscribe to
            if self._backoff.get((topic, peer), 0.0) > now or topic not in found.topics or len(mesh) >= D_HIGH:
                answer.prune.append((topic, BACKOFF_S))
            else:
                mesh.add(peer)
        for topic, backoff_s in rpc.prune:
            # Of topics that it is in: so many there are at most.
            if topic in self._meshes and topic in found.topics:
                self._meshes[topic].discard(peer)
                self._backoff[topic, peer] = now + min(backoff_s or BACKOFF_S, _MAX_BACKOFF_S)
        for topic, identities in rpc.have:
            if topic in self._topics:
                new = [each for each in dict.fromkeys(identities) if each not in self._seen]
                answer.want += [each for each in new if found.wants.take(1.0, now)]
        for identity in dict.fromkeys(rpc.want):
            message = self._cache.get(identity)
            if message is not None and found.wants.take(1.0, now):
                answer.published.append(message)

    # -- heartbeat --------------------------------------------------------------------

    def heartbeat(self, now: float) -> None:
        """Once in HEARTBEAT_S: keep meshes at their size, tell of messages, forget."""
        while self._seen and next(iter(self._seen.values())) < now:
            self._seen.popitem(last=False)
        for key in [key for key, until in self._backoff.items() if until < now]:
            del self._backoff[key]
        news: dict[str, list[bytes]] = {}
        for identity in [each for heard in list(self._history)[-_GOSSIP:] for each in heard]:
            if (message := self._cache.get(identity)) is not None:
                news.setdefault(message.topic, []).append(identity)
        for topic, mesh in self._meshes.items():
            subscribers = self.subscribers(topic)
            if not subscribers and not mesh:
                continue
            if len(mesh) < D_LOW:
                self._fill(topic)
            elif len(mesh) > D_HIGH:
                for peer in self._some(sorted(mesh), len(mesh) - D):
                    mesh.discard(peer)
                    self._backoff[topic, peer] = now + BACKOFF_S
                    self._say(peer, Rpc(prune=[(topic, BACKOFF_S)]))
            if topic in news:
                for peer in self._some(sorted(subscribers - mesh), D_LAZY):
                    self._say(peer, Rpc(have=[(topic, news[topic][:512])]))
        if len(self._history) == _HISTORY:
            for identity in self._history[0]:
                self._drop(identity)
        self._history.append([])

    def _fill(self, topic: str) -> None:
        """Take subscribers into the mesh of a topic; those with a backoff are left until a heartbeat ends it."""
        mesh = self._meshes[topic]
        free = sorted(peer for peer in self.subscribers(topic) - mesh if (topic, peer) not in self._backoff)
        for peer in self._some(free, D - len(mesh)):
            mesh.add(peer)
            self._say(peer, Rpc(graft=[topic]))

    def _some(self, peers: list[bytes], count: int) -> list[bytes]:
        keyed = sorted((self._draw(), peer) for peer in peers)
        return [peer for _, peer in keyed[: max(0, count)]]

    def _is_new(self, identity: bytes, now: float) -> None:
        self._seen[identity] = now + SEEN_S
        if len(self._seen) > MAX_SEEN:
            self._seen.popitem(last=False)

    def _remember(self, message: Published) -> None:
        self._cache[message.identity] = message
        self._cached_bytes += len(message.data)
        self._history[-1].append(message.identity)
        while self._cached_bytes > MAX_CACHED_BYTES:
            self._drop(next(iter(self._cache)))

    def _drop(self, identity: bytes) -> None:
        message = self._cache.pop(identity, None)
        if message is not None:
            self._cached_bytes -= len(message.data)

    # -- what goes out ----------------------------------------------------------------

    def _say(self, peer: bytes, rpc: Rpc) -> None:
        found = self._peers.get(peer)
        if found is None:
            return
        encoded = rpc.encode()
        if found.out_bytes + len(encoded) > MAX_WAITING_BYTES:
            self._count("published_lost")
            return
        found.out.append(encoded)
        found.out_bytes += len(encoded)

    def messages_to_send(self, peer: bytes) -> list[bytes]:
        """Return what is to be sent to a peer now."""
        found = self._peers.get(peer)
        if found is None or not found.out:
            return []
        out = list(found.out)
        found.out.clear()
        found.out_bytes = 0
        return out

    def has_messages(self) -> list[bytes]:
        """The peers for whom something waits."""
        return [peer for peer, found in self._peers.items() if found.out]
