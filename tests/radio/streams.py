# SPDX-License-Identifier: GPL-2.0-or-later
"""A stream of envelopes from one relay to another, and what became of them."""

PROGRAM = "tests.radio.inside.stream"
#: Of a full store, with two cores full of other guests.
FETCH_TIMEOUT_S = 120
#: Acknowledged, and this program does not know it yet; of a stream that flows there are more all the time.
UNDER_WAY = 20


class EnvelopeStream:
    """Puts into ``source`` all the time; ``sink`` is to get them from there."""

    def __init__(self, source, sink):
        self.sink = sink
        self._process = source.start_process("python3", "-m", PROGRAM, "put")

    @property
    def acknowledged(self):
        """How many the source has acknowledged so far."""
        return self._process.stdout.count("\n")

    def wait_flow(self, patience_s, what="envelopes get there"):
        """Wait until the sink has all that was acknowledged before this call, and some that were not."""
        target = self.acknowledged + UNDER_WAY
        self.sink.wait(what, lambda status: status["store"]["admitted"] > target, patience_s)

    def wait_stuck(self, patience_s, what="no more envelopes get there"):
        """Wait until there are some that the sink does not have, and a good deal later it has none of them."""
        target = self.acknowledged + UNDER_WAY
        self.sink.wait(
            what,
            lambda status: status["store"]["admitted"] < target < self.acknowledged - UNDER_WAY,
            patience_s,
        )

    def end(self):
        """Stop; return the IDs that were acknowledged."""
        self._process.kill()
        # The last line may have been cut.
        return set(self._process.stdout.rpartition("\n")[0].splitlines())


def held(relay):
    """The IDs that a relay holds."""
    return set(relay.run("python3", "-m", PROGRAM, "held", timeout_s=FETCH_TIMEOUT_S).stdout.splitlines())
