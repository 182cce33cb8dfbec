# SPDX-License-Identifier: GPL-2.0-or-later
"""What the operator's page says for the names of conditions, states, counts and gauges: no jargon, and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from relay.pages.language import N_


@dataclass(frozen=True, slots=True)
class Said:
    """A condition in words: what is so, and what to do."""

    what: str
    do: str


#: By the name of a condition (relay.control.conditions). One that is not here is shown as its table says it.
CONDITIONS: Final[dict[str, Said]] = {
    "starting": Said(
        N_("The relay is starting"), N_("Wait some minutes: a large store on a slow card takes that long.")
    ),
    "store_unwritable": Said(
        N_("Nothing can be written to the card: no new message is taken"),
        N_("Use another card. If it is a computer: free space on its disk."),
    ),
    "store_damaged": Said(N_("Some of the kept messages are damaged"), N_("The card wears out: use another one soon.")),
    "store_mended": Said(
        N_("The store was damaged and has been mended; some messages may be lost"),
        N_("The card wears out: use another one soon."),
    ),
    "card_slow": Said(N_("The card is very slow"), N_("Messages are delayed. Use another card, of a known maker.")),
    "disk_full": Said(N_("The card is nearly full"), N_("Use a larger card, or let the relay keep less.")),
    "store_nearly_full": Said(
        N_("The store is nearly full"), N_("Put up another relay nearby, or let this one keep more.")
    ),
    "store_evicting": Said(
        N_("Messages had to make room for others before their time"),
        N_("Put up another relay nearby, or let this one keep more. Somebody may be flooding it."),
    ),
    "store_refusing": Said(
        N_("Messages were turned away, as there was no room"),
        N_("Put up another relay nearby, or let this one keep more. Somebody may be flooding it."),
    ),
    "task_stalled": Said(
        N_("A part of the relay does not go on"), N_("Pull the plug, wait a moment and plug it in again.")
    ),
    "no_link": Said(N_("Nobody can reach this relay"), N_("Look at cables, Wi-Fi and Bluetooth: none of them works.")),
    "link_down": Said(N_("A connection is down"), N_("Look at its cable or radio.")),
    "discovery_down": Said(
        N_("This relay does not find others by itself"),
        N_("Start it again. If that does not help, another program on this machine may be in its way."),
    ),
    "alone": Said(
        N_("This relay has lost all its neighbours"),
        N_("Look whether the others are on, near enough, and set up alike."),
    ),
    "secret_differs": Said(
        N_("Relays nearby have another secret"),
        N_("Write the same mesh_secret on the cards of all relays of your mesh."),
    ),
    "clock_untrusted": Said(
        N_("The relay does not know what time it is"),
        N_("It works without. Messages then leave after seven days instead of at their hour."),
    ),
    "clock_refused": Said(
        N_("The clock of this machine cannot be right"),
        N_("Set the machine's clock, or give the relay the time below."),
    ),
    "clock_wrong": Said(
        N_("The clock is probably wrong"),
        N_("Give the relay the right time below: with a wrong one it turns mail away."),
    ),
    "clock_disputed": Said(
        N_("Phones with bitchat say another time than the relay"),
        N_(
            "Look which one is right. If the relay is wrong, give it the right time below: until then iPhones do not "
            "listen to it."
        ),
    ),
    "ble_down": Said(
        N_("Bluetooth does not work"), N_("Start the relay again. If that does not help, use another box.")
    ),
    "bitchat_down": Said(
        N_("bitchat does not work"), N_("Start the relay again. If that does not help, use another box.")
    ),
    "libp2p_down": Said(
        N_("libp2p does not work"),
        N_("See whether another program has its port; then start the relay again."),
    ),
    "net_down": Said(N_("Wi-Fi does not work"), N_("Look at the radio and its settings; then start the relay again.")),
    "board_down": Said(N_("Light and button do not work"), N_("Start the relay again.")),
    "access_point_full": Said(
        N_("The Wi-Fi for phones is full: the next one cannot join"),
        N_("Put up another relay, or use a USB radio for the phones."),
    ),
    "undervoltage": Said(
        N_("The power supply is too weak"), N_("Use another supply, or a shorter and thicker cable. It damages cards.")
    ),
    "hot": Said(N_("The box is too hot"), N_("Put it into the shade, and let air to it.")),
    "card_worn": Said(N_("The card is nearly worn out"), N_("Use a new card soon.")),
    "power_low": Said(N_("The battery is nearly empty"), N_("Charge it, or use another one.")),
    "config_mistake": Said(
        N_("There is a mistake in the settings"), N_("Correct relay.toml on a computer and start the relay again.")
    ),
    "secret_mistake": Said(
        N_("There is a mistake in the secret of the mesh"),
        N_("relay-status.txt on the card has one that was drawn. Write it on all cards."),
    ),
    "turned_back": Said(
        N_("Newer software did not work, and the one before it runs again"),
        N_("Messages are relayed as before. Tell whoever gave you the update."),
    ),
    "card_trouble": Said(N_("The card does not keep what it should"), N_("Write the card anew, or use another one.")),
    "board_trouble": Said(
        N_("A part of the box does not work"), N_("What it is stands below. The relay works without.")
    ),
    "network_trouble": Said(N_("A network that is set up does not work"), N_("What is in its way stands below.")),
}

#: States of links and parts, each with the symbol that goes with it.
STATES: Final[dict[str, tuple[str, str]]] = {
    "up": (N_("works"), "ok"),
    "listening": (N_("ready"), "ok"),
    "discovering": (N_("looks for relays"), "ok"),
    "off": (N_("off"), "info"),
    "stopped": (N_("was stopped"), "info"),
    "never_started": (N_("not in use"), "info"),
    "no_adapter": (N_("no such radio in this box"), "info"),
    "failing": (N_("does not work"), "bad"),
    "dead": (N_("has ended"), "bad"),
    "down": (N_("down"), "bad"),
    "unplugged": (N_("nothing is plugged in"), "info"),
}

LINKS: Final = {
    "tcp": N_("network"),
    "unix": N_("this machine"),
    "ble": N_("Bluetooth"),
    "dnssd": N_("finding relays"),
}

COMPONENTS: Final = {"ble": N_("Bluetooth"), "net": N_("Wi-Fi"), "board": N_("Light and button")}

GAUGES: Final = {
    "adapters": N_("radios"),
    "adapters_up": N_("radios that work"),
    "clients": N_("people"),
    "neighbours": N_("relays"),
    "slots_used": N_("places of phones in use"),
    "relays_heard": N_("relays heard"),
    "radios": N_("radios"),
    "radios_up": N_("radios that work"),
    "mesh_peers": N_("relays by Wi-Fi"),
    "bridge_ports": N_("parts of the bridge"),
    "access_points": N_("networks for phones"),
    "access_points_up": N_("of these on the air"),
    "phones": N_("phones"),
    "phones_most": N_("phones at most"),
    "peers": N_("peers of libp2p"),
    "topics": N_("topics that they follow"),
    "blocks": N_("blocks kept for these"),
    "memory_bytes": N_("memory"),
    "temperature_celsius": N_("temperature"),
    "undervoltage": N_("supply too weak now"),
    "undervoltage_seen": N_("supply too weak since the start"),
    "card_life_used_percent": N_("life of the card used up"),
    "card_worn": N_("step of wear that the card tells"),
    "power_percent": N_("battery"),
    "power_external": N_("fed from outside"),
    "clock_trusted": N_("goes by a clock"),
    "clock_learned": N_("learned the time from phones"),
    "clock_disputed": N_("phones say another time"),
    "letters_brief": N_("letters kept here alone"),
}

FAMILIES: Final = {
    "rejected": N_("Not taken"),
    "evicted": N_("Had to leave early"),
    "medium": N_("Trouble with the card"),
    "handshake_failures": N_("Connections that came to nothing"),
    "dropped": N_("Put off"),
    "http_refused": N_("Turned away by this page"),
}

#: By family and label (relay.core.stats).
REASONS: Final[dict[str, dict[str, str]]] = {
    "rejected": {
        "malformed": N_("it was no message"),
        "wrong_size": N_("it had a size that there is not"),
        "version": N_("it was of another version"),
        "expired": N_("its time was over"),
        "far_future": N_("its time lies too far ahead; is the clock right?"),
        "below_floor": N_("its time was over before this version was made"),
        "underpaid": N_("its sender had not done the work that is asked for now"),
        "full": N_("there was no room"),
        "hours": N_("too many different end times"),
        "class": N_("this relay does not carry that size"),
        "purged": N_("its sender had taken it back"),
        "gone": N_("it was here before, and has left"),
        "storage": N_("it could not be written"),
    },
    "evicted": {
        "price": N_("another one had done more work for its place"),
        "limit": N_("the relay may keep less than before"),
        "damaged": N_("it was damaged on the card"),
    },
    "medium": {
        "read_failed": N_("a message could not be read this time"),
        "header_damaged": N_("a message was left out, as it was damaged"),
    },
    "handshake_failures": {
        "version": N_("another version"),
        "decrypt": N_("another secret, or no relay"),
        "truncated": N_("it broke off"),
        "oversized": N_("more was sent than there is to say"),
        "low_order_key": N_("a forged key"),
        "timeout": N_("nothing came in time"),
        "secret_required": N_("it did not know the secret"),
        "self": N_("the relay had called itself"),
        "wrong_key": N_("another relay than the one that was named"),
        "too_many": N_("all places were taken"),
        "bad_hello": N_("a greeting that makes no sense"),
        "bad_preamble": N_("another program of this machine spoke wrongly"),
    },
    "dropped": {
        "request_timeout": N_("a neighbour did not send what it had offered"),
        "discovered_full": N_("too many relays announce themselves"),
        "admitted_full": N_("what had left was forgotten early"),
    },
    "http_refused": {
        "bad_request": N_("it was no question of a browser"),
        "host": N_("it was called by a name that is not its own"),
        "place": N_("a connection gave way to a newer one"),
        "token": N_("a wrong token"),
        "guesses": N_("too many wrong tokens"),
        "stranger": N_("without a token, from where one is needed"),
        "origin": N_("a change that another web page asked for"),
    },
}
