# SPDX-License-Identifier: GPL-2.0-or-later
"""Every text of the pages is there in every language, and what is read at run time is what translators wrote."""

import ast
import random
import re
import time

import pytest

from relay.appliance.apply import read_plan
from relay.appliance.network import draw_segment
from relay.appliance.plan import Facts
from relay.control.conditions import TABLE, with_conditions
from relay.control.status import ClockStatus, ComponentStatus, LinkState, LinkStatus, NoticeStatus, ProcessState, Status
from relay.core.stats import FAMILIES, Download, LinkKind, LiveDropped, LiveTotal, Total, UpdateRefused, UpdateTotal
from relay.links.discovery import _WITHOUT
from relay.links.tcp import _UNPLUGGED
from relay.pages.language import LANGUAGES, LOCALE, Tongue, choose, translations
from relay.pages.render import Pages
from relay.process.reports import GAUGES
from relay.run import sayings, words
from relay.run.history import Sample
from relay.run.page import operator_page
from tests.pages.catalogues import TRANSLATED, all_of, mo, po, read, template

PLACE = re.compile(r"%\(\w+\)s|%[sd]")
languages = pytest.mark.parametrize("code", TRANSLATED)


@pytest.fixture(scope="module")
def texts():
    return {message.id for message in template() if message.id}


@languages
def test_a_catalogue_has_every_text_and_no_other(code, texts):
    catalogue = read(code)
    assert {message.id for message in catalogue if message.id} == texts
    assert [message.id for message in catalogue if message.id and (message.fuzzy or not all_of(message))] == []
    assert not catalogue.obsolete


@languages
def test_what_is_filled_in_is_in_the_translation(code):
    for message in read(code):
        if not message.id:
            continue
        singular = message.id if isinstance(message.id, str) else message.id[1]
        forms = [message.string] if isinstance(message.string, str) else message.string
        assert any(sorted(PLACE.findall(form)) == sorted(PLACE.findall(singular)) for form in forms), message.id
        assert all(set(PLACE.findall(form)) <= set(PLACE.findall(singular)) for form in forms), message.id


@languages
def test_the_files_are_as_the_tool_writes_them(code):
    catalogue = read(code)
    assert (LOCALE / f"{code}.po").read_bytes() == po(catalogue)
    assert (LOCALE / f"{code}.mo").read_bytes() == mo(catalogue), "run `make catalogues`"


@languages
def test_numbers_take_the_forms_of_the_language(code):
    forms = {translations(code).ngettext("%(count)s relay", "%(count)s relays", count) for count in range(200)}
    # Of Arabic's six, one for each; others have one for one and one for many.
    assert len(forms) == (6 if code == "ar" else 1 if code == "fr" else 2)


def test_whatever_the_relay_can_say_has_words():
    assert {condition.name for condition in TABLE} == words.CONDITIONS.keys()
    assert {str(state) for kind in (LinkState, ProcessState) for state in kind} == words.STATES.keys()
    assert {str(kind) for kind in LinkKind} == words.LINKS.keys()
    assert {name for names in GAUGES.values() for name in names} == words.GAUGES.keys()
    said = {(family, reason) for family, reasons in words.REASONS.items() for reason in reasons}
    # Downloads, in steps of ten, live datagrams, and parts of updates are told to machines and terminals alone: what
    # became of an update is a notice.
    unsaid = {Total, Download, LiveTotal, LiveDropped, UpdateTotal, UpdateRefused}
    counted = [{str(member) for member in family} for family in FAMILIES if family not in unsaid]
    assert sorted(map(sorted, counted)) == sorted(sorted(reasons) for reasons in words.REASONS.values())
    assert {family for family, _ in said} == words.FAMILIES.keys()


def texts_of(source):
    """Every text that a file says, with %s where it fills something in."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "%s" for part in node.values)


def test_each_sentence_that_is_translated_is_said_somewhere():
    """They are found by their English text: one that is changed where it is said would be English from then on."""
    said = {
        text
        for path in LOCALE.parents[1].rglob("*.py")
        if path.name != "sayings.py"
        for text in texts_of(path.read_text())
    }
    # Why nothing can be written is a reason's name with spaces.
    said |= {text.replace("_", " ") for text in said if re.fullmatch(r"[a-z_]+", text)}
    assert set(sayings.SENTENCES) - said == set()


@pytest.mark.parametrize(
    ("text", "french"),
    [
        (
            "tcp on eth0, eth1: look at its cable, adapter and power",
            "réseau sur eth0, eth1 : regardez son câble, son adaptateur et son alimentation",
        ),
        (
            "The LAN bridge lacks a port: there is no eth1: plug it in, or name another.",
            "Il manque un port au pont du réseau local : il n'y a pas de eth1 : branchez-le, ou nommez-en un autre.",
        ),
        (
            "The access point for phones is off: 70%s of it.",
            "Le point d'accès pour les téléphones est éteint : 70%s of it.",
        ),
        ("line 3: expected a number", "ligne 3 : expected a number"),
        ("something that nobody knows: at all", None),
        ("it is %s", None),
        ("", None),
    ],
)
def test_what_other_processes_say_is_said_in_the_language_of_the_page(text, french):
    found = sayings.translated(text, Tongue(choose("fr", "")))
    if found is not None:
        found = re.sub("[\N{FIRST STRONG ISOLATE}\N{POP DIRECTIONAL ISOLATE}]", "", found).replace(
            "\N{NO-BREAK SPACE}", " "
        )
    assert found == french


@languages
def test_a_page_of_another_language_has_no_english_sentence(code, tmp_path):
    facts = Facts(segment=draw_segment(random.Random(4).randbytes), stand_in="0" * 64)
    notices = list(read_plan(tmp_path, facts).notices)
    (tmp_path / "relay.toml").write_text("[appliance]\nlan_bridge = yes\n")
    (tmp_path / "relay.toml.txt").write_text("")
    notices += read_plan(tmp_path, facts).notices
    taken = "cannot listen on port 4271: Address already in use by x; stop what has it, or set another port in [libp2p]"
    discovery = f"port 5353: Address already in use by avahi; stop what has it, {_WITHOUT}"
    status = Status(
        version="1",
        ready=True,
        relays=0,
        link_states={"tcp": "down"},
        links=[
            LinkStatus(kind="tcp", interface="eth0", state=LinkState.DOWN, fault=_UNPLUGGED),
            LinkStatus(kind="dnssd", interface="eth0", state=LinkState.DOWN, fault=discovery),
        ],
        clock=ClockStatus(trusted=True, hour=500_000, offset_hours=-9600),
        components=[
            ComponentStatus(name="ble"),
            ComponentStatus(name="board", connected=True),
            ComponentStatus(name="net", connected=True, troubles=["The access point for phones is off: x."]),
            ComponentStatus(name="libp2p", connected=True, troubles=[taken]),
        ],
        notices=[NoticeStatus(code=str(one.code), text=one.text, serious=one.code.serious) for one in notices],
    )
    page = operator_page(
        Pages(),
        choose(code, ""),
        with_conditions(status),
        [Sample(at_s=0, envelopes=0, bytes=0, received=0, sent=0)] * 2,
        can_set_clock=False,
    )
    shown = re.findall(r'<p class="detail">.*?</p>', page)
    assert len(shown) >= 10
    assert [one for one in shown if 'lang="en"' in one] == []


def test_a_text_of_any_kind_is_looked_up_in_no_time():
    """A report is 600 characters at most, of another process that may be anything."""
    hostile = ["on " * 200, "line " + ": " * 290, "a: " * 200, "port : ; , " * 54, " on : " * 100]
    began = time.thread_time()
    for text in hostile:
        sayings.translated(text, Tongue(choose("ar", "")))
    assert time.thread_time() - began < 0.5


@pytest.mark.parametrize(
    ("by_hand", "header", "code"),
    [
        ("", "", "en"),
        ("", "ar-EG,ar;q=0.9,en;q=0.5", "ar"),
        ("", "de-DE, de;q=0.9, fr-CH;q=0.3, es;q=0.2", "fr"),
        ("", "de, it", "en"),
        ("es", "fr", "es"),
        ("xx", "fr", "fr"),
        ("", "fr;q=0, es;q=0.1", "es"),
        ("", "fr;q=nan, es;q=5, ar;q=x", "en"),
        ("", "EN;Q=0.2, FR;q=1", "fr"),
        ("", ",".join(["de"] * 1000) + ",fr", "en"),
        ("../../etc", "*;q=0.5", "en"),
    ],
)
def test_a_language_is_chosen_by_hand_or_else_by_what_the_browser_says(by_hand, header, code):
    assert choose(by_hand, header).code == code


def test_numbers_sizes_and_durations_are_written_as_readers_do():
    english, french = Tongue(LANGUAGES[0]), Tongue(LANGUAGES[1])
    assert english.number(1234567) == "1,234,567"
    assert french.number(1234.5, 1) == "1\N{NARROW NO-BREAK SPACE}234,5"
    assert [english.size(count) for count in (0, 999, 1000, 1_536_000, 999_600_000)] == [
        "0 B", "999 B", "1.0 kB", "1.5 MB", "1.0 GB",
    ]  # fmt: skip
    assert french.size(2_500_000) == "2,5 Mo"
    assert [english.duration(seconds) for seconds in (5, 240, 3600, 90_000)] == [
        "5 s", "4 min", "1 h", "1 d\N{NO-BREAK SPACE}1 h",
    ]  # fmt: skip
