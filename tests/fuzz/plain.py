# SPDX-License-Identifier: GPL-2.0-or-later
"""Sessions after their handshake, without encryption: a fuzzer cannot forge tags, a peer with keys can."""

from relay.core.messages import Hello, Role
from relay.core.noise import KeyPair
from relay.core.session import Session, State

KEYS = KeyPair.from_private(bytes(range(32)))


class Plain:
    """A cipher that does nothing."""

    @staticmethod
    def encrypt(plaintext):
        """Return it."""
        return plaintext

    decrypt = encrypt


def open_up(session, *, handshake_hash):
    """Put a fresh session where the handshake would have led it."""
    session._outbound.clear()
    session._handshake = None
    session._encrypt = session._decrypt = Plain
    session.handshake_hash = session.link_secret = session._reconcile_secret = handshake_hash
    session.state = State.HELLO


def plain_session(role=Role.RELAY):
    """A session in state HELLO."""
    session = Session(initiator=False, hello=Hello(role=role), random_bytes=bytes, now=0.0, static=KEYS)
    open_up(session, handshake_hash=bytes(32))
    return session
