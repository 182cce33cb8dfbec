# SPDX-License-Identifier: GPL-2.0-or-later
"""What conditions and other processes say in whole sentences, in the language of a page.

They say it in English, once for log, terminal, card and page alike (relay.control.conditions, notices, reports). So the
page knows the sentences: each is found by what does not change in it, and what does (%s) is looked up in turn. One that
is not here is shown in English. A test holds each to be said somewhere.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from relay.pages.language import N_
from relay.run.words import LINKS

if TYPE_CHECKING:
    from relay.pages.language import Tongue

#: A sentence within a sentence within one: no text that we make goes deeper.
_MAX_DEPTH: Final = 4

#: A kind of link and its interfaces, and two halves.
_LINK: Final = N_("%s on %s: %s")
_COLON: Final = N_("%s: %s")

#: Those of which more is fixed go first.
SENTENCES: Final = (
    # relay.control.conditions
    N_("it is %s hours ahead of its neighbours'"),
    N_("it is %s hours behind its neighbours'"),
    N_("envelopes were refused for their hour, and none was taken"),
    N_("look at its cable, adapter and power"),
    N_("relay %s runs and cannot work: start it again; if it stays so, see its log"),
    N_("relay %s is gone: start it again, and see its log"),
    N_("since the start"),
    N_("%s degrees Celsius"),
    # Links and discovery
    N_("the interface is gone, or was switched off"),
    N_("nothing is plugged in, or the other end is switched off: look at both ends of the cable"),
    N_("there is no interface of this name that is switched on: look at interfaces in [tcp], and plug it in"),
    N_("cannot listen on port %s: %s; stop what has it, or set another port in [tcp]"),
    N_("cannot listen on port %s: %s; stop what has it, or set another port in [libp2p]"),
    N_("none of its interfaces has an address: plug in a cable, switch on the access point, or change [libp2p]"),
    N_("multicast is impossible here, so relays cannot find each other: use another network, %s"),
    N_("multicast does not get through, not even to this relay itself: let %s/udp through the packet filter, %s"),
    N_("or set discovery = false in [tcp] and name relays in peers there"),
    N_("stop what has it"),
    # The card and its settings
    N_("read only"),
    N_("The drive MESH-RELAY cannot be written: write the card anew, or use another."),
    N_(
        "The card has no room for messages: they are kept in memory only, and lost with the power. "
        "Use a larger card, or write this one anew."
    ),
    N_(
        "The card still holds messages from before, not encrypted, that are neither used nor erased: "
        'new ones are in memory only. With storage = "plain" they are used again. %s'
    ),
    N_(
        "The card still holds messages from before, encrypted with a passphrase, that are "
        "neither used nor erased: new ones are in memory only. "
        'With storage = "durable" they are used again. %s'
    ),
    N_('To have them erased, write storage = "amnesic" below [appliance]; or hold the button (panic).'),
    N_(
        "The card does not take messages: new ones are kept in memory only, and lost with the power. What is on it is "
        "left as it is. Use another card soon."
    ),
    N_(
        "Where the card keeps messages is something that no relay wrote, and it is neither used nor "
        "erased: messages are in memory only. %s"
    ),
    N_(
        "The card still holds messages from before storage was set to keep none, and they cannot be "
        "erased: it is tried again at each start. To be sure, destroy the card."
    ),
    N_(
        "What is kept on the card is encrypted, and not open yet: messages are in memory only. Log in and "
        "type `relay appliance unlock`, or plug in the stick with its key."
    ),
    N_(
        "Nothing is kept on the card yet, as it has no passphrase: messages are in memory only. Log in and "
        "type `relay appliance unlock` to choose one, or plug in a stick with one."
    ),
    N_(
        'Wi-Fi is off, because no country is set; in relay.toml, below [appliance], write country = "DE" '
        "with the letters of yours."
    ),
    N_("%s is not read; if it is the one you mean, name it %s."),
    N_(
        "%s has a mistake and is not used: Bluetooth and Ethernet work, Wi-Fi is off, "
        "messages are kept in memory only.%s Correct it on a computer and start again."
    ),
    N_(" The mesh stays closed, by the secret that stands there."),
    N_(
        " There is, was, or may be a mesh secret that cannot be read: "
        "so this relay keeps all others out until that is mended."
    ),
    N_("line %s: %s"),
    # What is plugged into USB
    N_("A stick that is plugged in cannot be read: it is damaged, or has neither FAT nor exFAT."),
    N_("A stick that is plugged in has no folder %s: nothing else of it is looked at."),
    N_("There is no report on the stick: the relay did not answer. Plug it in again later."),
    N_("The stick has no room for a report, is write-protected or damaged: use another."),
    N_("The stick has the report, %s/%s, and may be pulled out."),
    N_(
        "The stick's key is not used, as anybody could plug one in. If it is to be: "
        'sticks = ["report", "key"] in relay.toml, below [appliance].'
    ),
    N_("The stick's key cannot be read: it has to be a text of one line."),
    N_("The stick's key did not open what is kept: %s."),
    N_("The stick's key has opened what is kept: pull the stick out, and keep it away from the box."),
    N_("that is not its passphrase"),
    N_("a passphrase has %s characters or more"),
    N_("%s; take four or five words that nobody ever wrote together"),
    N_("that is among the first that anybody tries"),
    N_("The stick's files are offered to participants, until it is pulled out."),
    N_(
        "The stick's folder %s/%s is not offered, as anybody could plug one in. If it is to be: "
        'sticks = ["report", "shelf"] in relay.toml, below [appliance].'
    ),
    N_(
        "A network adapter was plugged into USB after the start, and is not used: anybody could do that. "
        "If it is yours, switch the relay off and on with the adapter in it."
    ),
    # Radios
    N_("Wi-Fi between relays is off: %s."),
    N_("The access point for phones is off: %s."),
    N_("The LAN bridge does not work: %s."),
    N_("The LAN bridge lacks a port: %s."),
    N_("there is no radio %s (there is: %s): plug one in, or name another"),
    N_("there is no %s: plug it in, or name another"),
    N_("%s is blocked by rfkill: unblock it (`rfkill unblock wifi`)"),
    N_("%s was unplugged or its driver reset"),
    N_("%s could be one, and hostapd has not made it one: try another channel (%s), or another radio"),
    N_("channel %s is not allowed here: %s, or set net.country to where this relay is"),
    N_("choose one of %s"),
    N_("this radio cannot be an access point: use a USB radio, %s"),
    # What is nearly all place-holders is tried last.
    N_("port %s: %s; %s, %s"),
    _LINK,
    N_("on %s: %s"),
    N_("on %s"),
    N_("now"),
    N_("none"),
    _COLON,
)


def _pattern(sentence: str) -> re.Pattern[str]:
    return re.compile("(.*?)".join(re.escape(part) for part in sentence.split("%s")), re.DOTALL)


_PATTERNS: Final = tuple((sentence, _pattern(sentence)) for sentence in SENTENCES)


def translated(text: str, tongue: Tongue) -> str | None:
    """``text`` in this language, the unknown parts of it as they are; None where nothing of it is known."""
    return _translated(text, tongue, _MAX_DEPTH)


def _translated(text: str, tongue: Tongue, depth: int) -> str | None:
    if not depth:
        return None
    for sentence, pattern in _PATTERNS:
        if (found := pattern.fullmatch(text)) is None:
            continue
        parts = [_translated(part, tongue, depth - 1) for part in found.groups()]
        if sentence == _LINK:
            parts[0] = tongue.text(LINKS.get(found[1], "")) or None
        if sentence == _COLON and parts[1] is None:
            # Anything with a colon in it is that; only its second half makes it one of ours.
            continue
        shown = [_isolated(part) if new is None else new for part, new in zip(found.groups(), parts, strict=True)]
        return tongue.text(sentence) % tuple(shown) if shown else tongue.text(sentence)
    return None


def _isolated(text: str) -> str:
    """A name, number or English in between: as it is written, whichever way the sentence around it runs."""
    return f"\N{FIRST STRONG ISOLATE}{text}\N{POP DIRECTIONAL ISOLATE}" if text else ""
