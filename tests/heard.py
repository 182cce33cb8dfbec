# SPDX-License-Identifier: GPL-2.0-or-later
"""What a peer has heard of a relay."""

from relay.core.messages import Ack
from relay.core.session import Envelopes


class Heard:
    """To be mixed into whoever keeps ``events`` of a session."""

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def acknowledged(self):
        return {number for ack in self.of(Ack) for number in ack.numbers()}

    @property
    def received(self):
        return [body for event in self.of(Envelopes) for body in event.items]
