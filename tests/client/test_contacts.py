# SPDX-License-Identifier: GPL-2.0-or-later
"""Cards survive the way from person to person or are refused; names are the user's own."""

import itertools
import random
import re
import stat
import threading

import nacl.exceptions
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.bindings import crypto_scalarmult

from relay.client import card, contacts
from relay.client.card import URI_PREFIX, Card, parse_uri
from relay.client.contacts import ContactBook, require_name, stranger_name
from relay.client.errors import CardError, ContactError, PrivateFileError
from relay.client.group import Group
from relay.client.identity import Identity
from relay.client.qr import terminal_qr
from relay.core.errors import DecodeError


def make_card(seed):
    return Card.of(Identity.generate(random.Random(seed).randbytes))


@given(seed=st.integers(), name=st.text(st.characters(exclude_categories=["Cs"]), max_size=64))
def test_a_card_comes_through_its_uri_with_the_suggested_name(seed, name):
    card = make_card(seed)
    uri = card.to_uri(name)
    assert parse_uri(uri) == (card, name)
    assert parse_uri(f" {uri.replace('mesh-relay:', 'MESH-Relay:')}\n") == (card, name)
    assert uri.isascii()


def test_every_changed_missing_or_added_character_of_a_card_is_noticed():
    uri = make_card(1).to_uri()
    for place in range(len(uri)):
        for damaged in (uri[:place] + "+" + uri[place + 1 :], uri[:place] + "B" + uri[place + 1 :]):
            if damaged != uri:
                with pytest.raises(CardError):
                    parse_uri(damaged)
        with pytest.raises(CardError):
            parse_uri(uri[:place] + uri[place + 1 :])
    with pytest.raises(CardError):
        parse_uri(uri + "A")


@given(st.text(max_size=200))
def test_any_text_is_a_card_or_refused(text):
    for uri in (text, URI_PREFIX + text):
        with pytest.raises(CardError):
            parse_uri(uri)


@given(st.binary(max_size=80))
def test_any_bytes_are_a_card_or_refused(data):
    with pytest.raises(DecodeError):
        Card.decode(data)


@pytest.mark.parametrize("top", [0, 1])
@pytest.mark.parametrize("times_p", [0, 1])
def test_keys_of_low_order_are_those_that_the_library_refuses(top, times_p):
    for value in {*card._LOW_ORDER, 2, 9, card._P - 2} if not times_p else {0, 1, 9, 18}:
        public = (value + times_p * card._P + (top << 255)).to_bytes(32, "little")
        is_low = Card(static=public, rendezvous=bytes(16)).is_low_order
        assert is_low == (value in card._LOW_ORDER)
        if is_low:
            with pytest.raises(nacl.exceptions.RuntimeError):
                crypto_scalarmult(b"\1" * 32, public)
        else:
            crypto_scalarmult(b"\1" * 32, public)


def test_a_card_whose_key_would_protect_nothing_is_refused():
    for low_order in (bytes(32), b"\1" + bytes(31)):
        with pytest.raises(CardError, match="low order"):
            parse_uri(Card(static=low_order, rendezvous=bytes(16)).to_uri())


def test_the_fingerprint_is_eight_groups_of_digits_that_depend_on_both_keys():
    card, other = make_card(1), make_card(2)
    groups = card.fingerprint.split()
    assert [len(group) for group in groups] == [5] * 8
    assert all(group.isdecimal() for group in groups)
    variants = {
        one.fingerprint for one in (card, other, Card(static=card.static, rendezvous=other.rendezvous), make_card(1))
    }
    assert len(variants) == 3


def test_a_qr_code_fits_a_terminal_of_80_columns():
    lines = re.sub("\x1b\\[[0-9;]*m", "", terminal_qr(make_card(1).to_uri("x" * 64))).splitlines()
    assert max(map(len, lines)) <= 80
    assert {character for line in lines for character in line} <= set(" ▀▄█")


@pytest.mark.parametrize(
    "around", ["{}", "<{}>", "< {} >", '\t"{}"\r\n', "\N{LEFT DOUBLE QUOTATION MARK}{}\N{RIGHT DOUBLE QUOTATION MARK}"]
)
@pytest.mark.parametrize("break_with", ["\n", "\r\n", " ", "\n   ", "\N{NO-BREAK SPACE}", "\N{LINE SEPARATOR}"])
def test_a_card_is_taken_as_mail_and_messengers_break_it(around, break_with):
    card = make_card(1)
    uri = card.to_uri("Zoë & Ben")
    for place in range(1, len(uri)):
        assert parse_uri(around.format(uri[:place] + break_with + uri[place:])) == (card, "Zoë & Ben")
    in_lines = break_with.join(uri[place : place + 20] for place in range(0, len(uri), 20))
    assert parse_uri(around.format(in_lines)) == (card, "Zoë & Ben")


@pytest.mark.parametrize(
    "name",
    ["", " a", "a ", "-a", "a\nb", "a\x1b[31m", "a\u202eb", "a\u200bb", "x" * 65, "e\u0301", "a  b", "~a", "\u3164"],
)
def test_names_that_could_be_mistaken_are_refused(name):
    with pytest.raises(ContactError):
        require_name(name)


@pytest.mark.parametrize("name", ["Zoë", "李", "a b", "@home", "x" * 64, "زهرا", "🐙"])
def test_names_of_people_are_taken(name):
    assert require_name(name) == name


def test_nobody_makes_a_key_for_the_name_by_which_another_stranger_is_shown():
    assert re.fullmatch("stranger [0-9a-f]{16}", stranger_name(make_card(1).static))


def test_a_name_that_the_card_gives_itself_is_marked_until_the_user_says_who_it_is(tmp_path):
    folder = tmp_path / "mesh-relay"
    book = ContactBook(folder)
    assert book.add(make_card(1), "Ben", is_own_word=True).name == "~Ben"
    with pytest.raises(ContactError, match="taken"):
        book.add(make_card(2), "ben")
    book.add(make_card(2), "ann")
    book.set_group("all", ("ben", "ann"))
    again = ContactBook(folder)
    assert again.name_of(make_card(1).static) == "~Ben"
    assert again.get("BEN") == again.get("~ben")
    assert again.groups == {"all": ("~Ben", "ann")}
    for taken in ("Ann", "ALL", "-x", "~Ben"):
        with pytest.raises(ContactError):
            again.rename("ben", taken)
    again.rename("~Ben", "Ben")
    again.rename("all", "everybody")
    again = ContactBook(folder)
    assert again.name_of(make_card(1).static) == "Ben"
    assert again.groups == {"everybody": ("Ben", "ann")}
    again.rename("Ben", "Benjamin")
    assert [contact.name for contact in ContactBook(folder).resolve("everybody")] == ["Benjamin", "ann"]


def test_contacts_and_groups_are_there_after_a_restart_in_a_private_file(tmp_path):
    folder = tmp_path / "mesh-relay"
    book = ContactBook(folder)
    book.add(make_card(1), "Zoë")
    book.add(make_card(2), "adam")
    book.set_group("Family", ("zoë", "ADAM", "Zoë"))
    again = ContactBook(folder)
    assert [contact.name for contact in again] == ["adam", "Zoë"]
    assert again.groups == {"Family": ("Zoë", "adam")}
    assert [contact.card for contact in again.resolve("family")] == [make_card(1), make_card(2)]
    assert again.resolve("ZOË") == (again.get("Zoë"),)
    assert again.name_of(make_card(2).static) == "adam"
    assert again.name_of(make_card(3).static) is None
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_a_name_means_one_thing(tmp_path):
    book = ContactBook(tmp_path / "mesh-relay")
    book.add(make_card(1), "Zoë")
    book.set_group("all", ("Zoë",))
    for taken in ("zoë", "ALL"):
        with pytest.raises(ContactError, match="taken"):
            book.add(make_card(2), taken)
    with pytest.raises(ContactError, match="taken"):
        book.set_group("ZOË", ("Zoë",))
    with pytest.raises(ContactError, match="there already, as 'Zoë'; for another name: relay contact rename"):
        book.add(make_card(1), "other")
    with pytest.raises(ContactError, match="no contact named"):
        book.set_group("all", ("nobody",))
    with pytest.raises(ContactError, match="no contact named"):
        book.resolve("nobody")


def test_a_contact_leaves_when_no_group_needs_it(tmp_path):
    book = ContactBook(tmp_path / "mesh-relay")
    book.add(make_card(1), "Zoë")
    book.set_group("all", ("Zoë",))
    with pytest.raises(ContactError, match="in the group 'all'"):
        book.remove("zoë")
    assert [contact.name for contact in book] == ["Zoë"]
    book.remove("all")
    book.remove("zoë")
    assert list(ContactBook(tmp_path / "mesh-relay")) == []


def test_commands_at_the_same_time_lose_no_contact(tmp_path):
    folder = tmp_path / "mesh-relay"
    books = [ContactBook(folder) for _ in range(8)]
    threads = [
        threading.Thread(target=book.add, args=(make_card(number), f"n{number}")) for number, book in enumerate(books)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {contact.name for contact in ContactBook(folder)} == {f"n{number}" for number in range(8)}


def test_the_number_of_contacts_groups_and_members_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(contacts, "MAX_CONTACTS", 2)
    monkeypatch.setattr(contacts, "MAX_GROUPS", 1)
    monkeypatch.setattr(contacts, "MAX_MEMBERS", 1)
    book = ContactBook(tmp_path / "mesh-relay")
    book.add(make_card(1), "a")
    book.add(make_card(2), "b")
    with pytest.raises(ContactError, match="2 contacts"):
        book.add(make_card(3), "c")
    with pytest.raises(ContactError, match="1 to 1 members"):
        book.set_group("g", ("a", "b"))
    book.set_group("g", ("a",))
    with pytest.raises(ContactError, match="1 groups"):
        book.set_group("h", ("a",))
    assert [contact.name for contact in book] == ["a", "b"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{",
        b'{"version": 1}',
        b'{"version": 1, "contacts": {"a": "b"}, "groups": {}}',
        b'{"version": 1, "contacts": {"a": 1}, "groups": {}}',
        b'{"version": 1, "contacts": [], "groups": {}}',
        b'{"version": 1, "contacts": {}, "groups": {"g": ["a"]}}',
        b'{"version": 1, "contacts": {}, "groups": {"g": 1}}',
    ],
)
def test_a_damaged_file_is_told_and_kept(tmp_path, content):
    (tmp_path / "contacts.json").write_bytes(content)
    (tmp_path / "contacts.json").chmod(0o600)
    tmp_path.chmod(0o700)
    with pytest.raises(PrivateFileError, match="damaged"):
        ContactBook(tmp_path)
    assert (tmp_path / "contacts.json").read_bytes() == content


# -- groups ----------------------------------------------------------------

ANN, BEN, CARL, EVE = (make_card(number) for number in range(10, 14))


def books(tmp_path):
    """Ann knows Ben and Carl; these know Ann only."""
    made = {name: ContactBook(tmp_path / name) for name in ("ann", "ben", "carl")}
    made["ann"].add(BEN, "ben")
    made["ann"].add(CARL, "carl")
    made["ann"].set_group("choir", ("ben", "carl"))
    for name in ("ben", "carl"):
        made[name].add(ANN, "ann")
    return made.values()


def others_of(book, name="choir"):
    return {card.static for card in book.group(name).others}


def test_a_member_answers_all_though_he_does_not_know_them(tmp_path):
    ann, ben, carl = books(tmp_path)
    news = ben.learn_group(ann.group("choir").to_send(ANN), ANN.static, BEN.static)
    # Under the name that Ann gave it, marked.
    assert (news.name, news.changed, others_of(ben)) == ("~choir", True, {ANN.static, CARL.static})
    assert [contact.name for contact in ben.resolve("~Choir")] == ["ann", stranger_name(CARL.static)]
    assert [contact.card for contact in ben.resolve("choir")] == [ANN, CARL]
    # Carl hears of it from Ann, and then from Ben, who is a stranger to him.
    carl.learn_group(ann.group("choir").to_send(ANN), ANN.static, CARL.static)
    news = carl.learn_group(ben.group("choir").to_send(BEN), BEN.static, CARL.static)
    assert (news.name, news.changed) == ("~choir", False)
    assert [contact.card for contact in ContactBook(tmp_path / "carl").resolve("choir")] == [ANN, BEN]


def test_a_stranger_makes_nobody_member_of_a_group(tmp_path):
    ann, ben, _ = books(tmp_path)
    ben.learn_group(ann.group("choir").to_send(ANN), ANN.static, BEN.static)
    theirs = ann.group("choir")
    made = Group(id=bytes(16), version=1, name="choir", members=(EVE, BEN, CARL))
    assert ben.learn_group(made, EVE.static, BEN.static).group is None
    # Nor does he change one, though he has heard its ID, nor a contact one that he is not in.
    changed = Group(id=theirs.id, version=7, name="choir", members=(EVE, BEN))
    assert not ben.learn_group(changed, EVE.static, BEN.static).changed
    ben.add(EVE, "eve")
    assert not ben.learn_group(changed, EVE.static, BEN.static).changed
    assert others_of(ben) == {ANN.static, CARL.static}
    # Nor has a member the last word for ever.
    ben.learn_group(Group(id=theirs.id, version=2**32 - 1, name="", members=(ANN, BEN)), ANN.static, BEN.static)
    assert others_of(ben) == {ANN.static, CARL.static}
    # What protects nothing is not sealed to.
    ben.learn_group(
        Group(id=theirs.id, version=1, name="", members=(ANN, BEN, Card(static=bytes(32), rendezvous=bytes(16)))),
        ANN.static,
        BEN.static,
    )
    assert others_of(ben) == {ANN.static}


def test_the_newest_word_of_a_member_holds_and_everybody_comes_to_the_same(tmp_path):
    ann, ben, carl = books(tmp_path)
    first = ann.group("choir").to_send(ANN)
    for book, own in ((ben, BEN), (carl, CARL)):
        book.learn_group(first, ANN.static, own.static)
    ann.add(EVE, "eve")
    ann.set_group("choir", ("ben", "carl", "eve"))
    second = ann.group("choir").to_send(ANN)
    # A change that Ben makes in the same moment; they come in any order.
    ben.set_group("choir", ("ann", stranger_name(CARL.static)))
    rival = ben.group("choir").to_send(BEN)
    for order in itertools.permutations([(first, ANN), (second, ANN), (rival, BEN)]):
        held = []
        for book, own in ((ann, ANN), (ben, BEN), (carl, CARL)):
            for told, sender in order:
                if sender != own:
                    book.learn_group(told, sender.static, own.static)
            held.append(others_of(book) | {own.static})
        assert held[0] == held[1] == held[2]


def test_who_has_left_is_written_to_no_more_and_not_brought_back(tmp_path):
    ann, ben, carl = books(tmp_path)
    first = ann.group("choir").to_send(ANN)
    for book, own in ((ben, BEN), (carl, CARL)):
        book.learn_group(first, ANN.static, own.static)
    told = ben.leave("choir").to_send(BEN, is_left=True)
    for book, own in ((ann, ANN), (carl, CARL)):
        assert book.learn_group(told, BEN.static, own.static).changed
        assert BEN.static not in others_of(book)
    # Ann's next message was on its way already.
    late = ContactBook(tmp_path / "ben").learn_group(first, ANN.static, BEN.static)
    assert (late.name, late.group) == ("~choir", None)
    assert ContactBook(tmp_path / "ben").groups == {}
    with pytest.raises(ContactError, match="no group"):
        ben.leave("choir")
    # Who was put out hears of it, and a group of nobody else is none.
    ann.set_group("choir", ("ben",))
    assert carl.learn_group(ann.group("choir").to_send(ANN), ANN.static, CARL.static).group is None
    assert carl.groups == {}


def diverted(card):
    return Card(static=card.static, rendezvous=bytes(16))


def test_a_message_to_a_group_that_tells_nothing_new_writes_nothing(tmp_path):
    """A contact's groups make a file of megabytes, and each message to one had it written anew."""
    ann, ben, _ = books(tmp_path)
    told = ann.group("choir").to_send(ANN)
    ben.learn_group(told, ANN.static, BEN.static)
    path = tmp_path / "ben" / "contacts.json"
    before = path.stat()
    assert not ben.learn_group(told, ANN.static, BEN.static).changed
    assert path.stat().st_ino == before.st_ino
    ben.rename("choir", "choir")
    assert path.stat().st_ino != before.st_ino


def test_no_member_has_anothers_mail_go_elsewhere_unseen(tmp_path):
    """The same people by the same names, but Ben's mail into a bucket that he never looks at."""
    ann, _, carl = books(tmp_path)
    first = ann.group("choir").to_send(ANN)
    carl.learn_group(first, ANN.static, CARL.static)
    told = Group(id=first.id, version=first.version + 1, name="", members=(ANN, diverted(BEN), CARL))
    # Ann has his card; Carl knows him from the group only.
    assert not ann.learn_group(told, CARL.static, ANN.static).changed
    assert not carl.learn_group(told, ANN.static, CARL.static).changed
    assert [card for card in ann.group("choir").others if card.static == BEN.static] == [BEN]
    assert [card for card in carl.group("choir").others if card.static == BEN.static] == [BEN]
    # Who lies from the beginning is believed until Ben says something, or his card comes.
    lie = Group(id=bytes(16), version=3, name="g", members=(ANN, diverted(BEN), CARL))
    assert diverted(BEN) in carl.learn_group(lie, ANN.static, CARL.static).group.others
    carl.learn_group(Group(id=bytes(16), version=2, name="g", members=(ANN, BEN, CARL)), BEN.static, CARL.static)
    assert set(ContactBook(tmp_path / "carl").group("g").others) == {ANN, BEN}
    lie = Group(id=bytes(15) + b"2", version=3, name="g", members=(ANN, diverted(BEN), CARL))
    carl.learn_group(lie, ANN.static, CARL.static)
    carl.add(BEN, "ben")
    assert set(carl.group("g 2").others) == {ANN, BEN}


def test_a_group_has_a_name_of_its_own_here_whatever_it_is_called_elsewhere(tmp_path):
    _, ben, _ = books(tmp_path)
    for number, name in enumerate(["Ann", "ann", "\u202e-~ evil\x1b name ", "", "x" * 255]):
        told = Group(id=bytes([number]) * 16, version=0, name=name, members=(ANN, BEN))
        ben.learn_group(told, ANN.static, BEN.static)
    assert set(ContactBook(tmp_path / "ben").groups) == {"~Ann 2", "~ann 3", "~evil name", "~group", "~" + "x" * 59}


def test_groups_of_others_leave_room_for_ones_own(tmp_path, monkeypatch):
    monkeypatch.setattr(contacts, "MAX_TOLD_GROUPS", 2)
    _, ben, _ = books(tmp_path)
    told = [Group(id=bytes([number]) * 16, version=0, name="g", members=(ANN, BEN)) for number in range(3)]
    assert [ben.learn_group(one, ANN.static, BEN.static).changed for one in told] == [True, True, False]
    ben.set_group("mine", ("ann",))
    assert set(ben.groups) == {"~g", "~g 2", "mine"}


def test_a_group_of_oneself_too_names_nobody_twice(tmp_path):
    ann, _, _ = books(tmp_path)
    ann.add(ANN, "me")
    ann.set_group("notes", ("me", "ben"))
    assert ann.group("notes").to_send(ANN).members == (ANN, BEN)
