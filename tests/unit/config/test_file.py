# SPDX-License-Identifier: GPL-2.0-or-later
import hashlib
import re
import time
from dataclasses import fields
from pathlib import Path

import pytest

from relay.config.board import BoardConfig
from relay.config.file import (
    EXAMPLE,
    SECTIONS,
    ConfigError,
    default_config,
    load_config,
    parse_config,
)
from relay.config.settings import Address, Peer

HOME = {"HOME": "/home/user"}


def parse(text, environ=HOME):
    raw = text if isinstance(text, bytes) else text.encode()
    return parse_config(raw, Path("relay.toml"), environ)


def problems(text):
    with pytest.raises(ConfigError) as caught:
        parse(text)
    return [(problem.line, problem.message) for problem in caught.value.problems]


def the_problem(text):
    (found,) = problems(text)
    return found


def test_the_example_says_what_the_defaults_are():
    assert load_config(EXAMPLE, HOME) == default_config(HOME)


def test_the_example_names_every_setting_and_explains_it():
    lines = EXAMPLE.read_text().splitlines()
    # Those of an appliance alone stand in docs/appliance.md and on its card.
    sections = {name: kind for name, kind in SECTIONS.items() if name not in {"appliance", "board"}}
    for name, kind in sections.items():
        for item in fields(kind):
            start = lines.index(f"[{name}]")
            pattern = re.compile(rf"{item.name} = |\[{name}\.{item.name}\]")
            at = next((number for number in range(start, len(lines)) if pattern.match(lines[number])), None)
            assert at is not None, f"{name}.{item.name} is not in {EXAMPLE.name}"
            above = next(line for line in reversed(lines[start:at]) if " = " not in line or line.startswith("#"))
            assert above.startswith(("#", "[")), f"{name}.{item.name} has no comment"
    assert sum(line.startswith("# ") for line in lines) > 50


def test_without_a_file_a_user_gets_the_defaults_in_folders_of_their_own():
    config = load_config(None, {"HOME": "/nowhere", "XDG_RUNTIME_DIR": "/run/user/1000"})
    assert config.store.database == Path("/nowhere/.local/state/mesh-relay/store.sqlite")
    assert config.control.path == Path("/run/user/1000/mesh-relay/control.sock")
    assert config.unix.path == Path("/run/user/1000/mesh-relay/link.sock")


def test_under_systemd_its_folders_are_used():
    environ = {"HOME": "/", "STATE_DIRECTORY": "/var/lib/mesh-relay:/var/lib/b", "RUNTIME_DIRECTORY": "/run/mesh-relay"}
    config = parse("[tcp]\nport = 1\n", environ)
    assert config.store.path == Path("/var/lib/mesh-relay")
    assert config.control.path == Path("/run/mesh-relay/control.sock")


def test_the_users_own_file_comes_before_the_systems_and_a_credential_before_both(tmp_path):
    user = tmp_path / ".config" / "mesh-relay" / "relay.toml"
    user.parent.mkdir(parents=True)
    user.write_text("[tcp]\nport = 1111\n")
    environ = {"HOME": str(tmp_path)}
    assert load_config(None, environ).tcp.port == 1111
    (tmp_path / "relay.toml").write_text("[tcp]\nport = 2222\n")
    assert load_config(None, environ | {"CREDENTIALS_DIRECTORY": str(tmp_path)}).tcp.port == 2222


def test_editors_of_other_systems_may_add_a_mark_and_carriage_returns():
    assert parse(b"\xef\xbb\xbf[tcp]\r\nport = 5000\r\n").tcp.port == 5000


def test_sections_of_other_processes_are_checked_by_their_own_rules():
    assert parse("[board]\nled = false\n[tcp]\nport = 1\n").board == BoardConfig(led=False)
    assert "true or false" in the_problem("[board]\nled = 'off'\n")[1]
    assert "did you mean country" in the_problem("[appliance]\ncuntry = 'DE'\n")[1]


def test_a_large_broken_file_is_refused_soon():
    lines = "1,\n" * 100_000
    started = time.monotonic()
    assert "number" in problems(f"[limits]\nx = [\n{lines}]\nmax_connections = 'a'\n")[-1][1]
    assert "deep" in the_problem("a = " + "[" * 30_000)[1]
    assert time.monotonic() - started < 30


def test_peers_may_be_names_and_addresses_of_both_kinds():
    config = parse('[tcp]\npeers = ["[fe80::1%eth0]:4270", "192.0.2.1:99", "relay.example", "[2001:db8::1]"]\n')
    assert config.tcp.peers == (
        Peer(Address("fe80::1%eth0", 4270)),
        Peer(Address("192.0.2.1", 99)),
        Peer(Address("relay.example", 4270)),
        Peer(Address("2001:db8::1", 4270)),
    )


def test_a_peers_key_stands_after_its_address_in_either_case():
    texts = ("192.0.2.1", "192.0.2.1:99", "[fe80::1%eth0]", "[2001:db8::1]:99", "relay.example")
    for digits in ("0a" * 32, "0A" * 32):
        entries = ", ".join(f'"{text}#{digits}"' for text in texts)
        peers = parse(f"[tcp]\npeers = [{entries}]\n").tcp.peers
        assert [peer.key for peer in peers] == [b"\n" * 32] * len(texts)
        assert [peer.address.port for peer in peers] == [4270, 99, 4270, 99, 4270]


def test_shares_are_by_interface():
    assert dict(parse("[store.shares]\neth0 = 0.25\nmesh0 = 0.75\n").store.shares) == {"eth0": 0.25, "mesh0": 0.75}


def test_rates_are_by_interface():
    assert dict(parse("[limits.bytes_per_s]\nhci0 = 20000\n").limits.bytes_per_s) == {"hci0": 20000.0}


def test_all_problems_are_told_at_once_each_with_its_line():
    text = """\
port = 1

[tcp]
prot = 1
peers = [
    "192.0.2.1:4270",
    "fe80::1",
]
port = "4270"

[[log]]
level = "debug"

[mehs]
"""
    found = problems(text)
    assert [line for line, _ in found] == [1, 4, 5, 9, 11, 14]
    assert "[tcp]" in found[0][1]
    assert "did you mean port?" in found[1][1]
    assert '"[fe80::1]:port"' in found[2][1]
    assert "whole number" in found[3][1]
    assert "write [log]" in found[4][1]
    assert "did you mean mesh?" in found[5][1]


def test_the_error_reads_as_file_line_remedy():
    with pytest.raises(ConfigError, match=r"^relay\.toml:2: unknown setting prot in \[tcp\]; did you mean port\?$"):
        parse("[tcp]\nprot = 1\n")


@pytest.mark.parametrize(
    ("text", "line", "remedy"),
    [
        ("[tcp]\nport = 1\nport = 2\n", 3, "overwrite.*twice: remove one"),
        ("[tcp]\nport = 1\n[tcp]\ndiscovery = false\n", 3, "section is there twice"),
        ('[log]\nlevel = "debug\n', 2, "no quote at its end"),
        ("[tcp]\nport =\n", 2, "Invalid value"),
        ("[tcp]\nport = 1\nenabled = maybe", 3, '^maybe is a text.*"maybe"'),
        ("[tcp]\nenabled = True\n", 2, "^True is written true"),
        ("[tcp]\nenabled = yes # for now\n", 2, "^yes is written true"),
        ("[tcp]\nenabled = Ture\n", 2, "^Ture is written true"),
        ("[tcp]\nenabled: False\n", 2, "False is written false"),
        ("[tcp]\ninterfaces = [eth, wlan]\n", 2, '^eth is a text.*"eth"'),
        ("[tcp]\nenabled = 'yes'\n", 2, "write true or false, without quotes"),
        ('[log]\nlevel = """debug', 2, "Unterminated|end of"),
        (b"[log]\nlevel = '\xff'\n", 2, "plain text"),
        ("[store]\nmax_envelopes = 1\n", 2, "from 100 to"),
        ("[store]\nmax_envelopes = true\n", 2, "whole number"),
        ("[tcp]\nmax_bytes = 1\n", 2, r"it belongs in \[store\]"),
        ("[tcp]\nenabled = 1\n", 2, "true or false"),
        ("[log]\nlevel = 'debug'\n", 2, '"warning" or "info"'),
        ("[store]\npath = 'relative'\n", 2, 'starting with "/"'),
        ("[store]\npath = 1\n", 2, "in quotes"),
        (f"[control]\npath = '/{'x' * 120}'\n", 2, "shorter"),
        ("[store.shares]\na = 0.6\nb = 0.6\n", 1, "more than 1"),
        ("[store.shares]\na = 0.6\nb = 2\n", 3, "from 0 to 1"),
        ("[store]\nshares = 1\n", 2, r"\[store.shares\]"),
        ("store.shares.'e th' = 0.5\n", 1, "no interface name"),
        ("[limits.bytes_per_s]\na = 20000\nb = 999\n", 3, "b: write a whole number from 1000"),
        ("[limits]\nbytes_per_s = 20000\n", 2, r"\[limits.bytes_per_s\]"),
        ("[tcp]\ninterfaces = 'eth0'\n", 2, "write a list"),
        ("[tcp]\npeers = ['[fe80::1]:4270']\n", 2, "needs its interface"),
        ("[tcp]\npeers = ['192.0.2.1:70000']\n", 2, "65535"),
        ("[tcp]\npeers = ['192.0.2.999']\n", 2, "no IPv4 address"),
        ("[tcp]\npeers = ['[zz::1]:1']\n", 2, "no IPv6 address"),
        ("[tcp]\npeers = ['a b:1']\n", 2, "no host name"),
        ("[tcp]\npeers = ['relay:0']\n", 2, "port from 1"),
        ("[mesh]\nclasses = [512]\n", 2, "256, 1024, 4096, 16384"),
        ("[mesh]\nclasses = []\n", 2, "256, 1024, 4096, 16384"),
        ("[http]\nlisten = 'localhost:9470'\n", 2, "IP address and a port"),
        ("[http]\nlisten = '127.0.0.1'\n", 2, "lacks the port"),
        ("[http]\nhosts = ['http://x']\n", 2, "without scheme"),
        ("[http]\nlabel = 'at the gate'\n", 2, "letters, digits and hyphens, at most 32"),
        ("[http]\nlabel = 'ana@example'\n", 2, "letters, digits and hyphens, at most 32"),
        ("[tcp]\npeers = ['relay#']\n", 2, "64 hexadecimal digits"),
        (f"[tcp]\npeers = ['relay#{'0' * 63}']\n", 2, "64 hexadecimal digits.*`relay key`"),
        (f"[tcp]\npeers = ['relay#{'0' * 65}']\n", 2, "64 hexadecimal digits"),
        (f"[tcp]\npeers = ['relay#{'0' * 63}g']\n", 2, "64 hexadecimal digits"),
        (f"[tcp]\npeers = ['relay#{'0' * 64}#']\n", 2, "64 hexadecimal digits"),
        (f"[tcp]\npeers = ['#{'0' * 64}']\n", 2, "no address"),
        ("[mesh]\nstatic_key = 'yes'\n", 2, "true or false"),
        ("[limits]\nhandshake_timeout_s = nan\n", 2, "from 1 to 120"),
        ("[clock]\ntrust = ['system']\n", 2, '"none" or "system"'),
        ("tcp = 1\n", 1, r"write \[tcp\]"),
    ],
)
def test_each_mistake_is_told_with_its_line_and_a_remedy(text, line, remedy):
    found = the_problem(text)
    assert found[0] == line
    assert re.search(remedy, found[1])


def test_more_peers_than_a_relay_takes_are_refused():
    peers = ", ".join(f"'192.0.2.{number}'" for number in range(65))
    assert "at most 64" in the_problem(f"[tcp]\npeers = [{peers}]\n")[1]


def test_the_secret_is_shown_neither_in_errors_nor_in_a_printed_configuration():
    assert "hunter2" not in the_problem("[mesh]\nsecret = 'hunter2'\n")[1]
    secret = hashlib.sha256(b"a test").hexdigest()
    config = parse(f"[mesh]\nsecret = '{secret}'\n")
    assert config.mesh.secret == secret
    assert secret not in repr(config)


def test_a_long_wrong_value_is_cut_in_the_message():
    assert len(the_problem(f"[log]\nlevel = '{'x' * 5000}'\n")[1]) < 200


@pytest.mark.parametrize(
    "raw",
    [b"", b"\n \t\r\n", b"# a remark", b"\xef\xbb\xbf", b"\xff\xfe", b"[store]\n# Folder of", b"[store.shares]\n"],
)
def test_a_file_that_sets_nothing_is_a_damaged_one(raw):
    line, message = the_problem(raw)
    assert line == 0
    assert re.search("no setting in it, as if it was cut off; put back.*remove the file", message)


@pytest.mark.parametrize("character", "\u00a0\u200b\ufeff\u2028\u202e\u00ad\u3164\u2066")
@pytest.mark.parametrize("text", ["[tcp]\nport{}= 1\n", "[tcp]\n{}port = 1\n", "[tcp]\nport = 1{}# \u00a0\n"])
def test_what_cannot_be_seen_is_named_with_line_and_place(character, text):
    line, message = the_problem(text.format(character))
    assert line == 2
    at = text.partition("\n")[2].index("{") + 1
    assert f"character {at} is no plain space but U+{ord(character):04X} (" in message


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ("[store]\npath = '/srv/x{}'\n", 2, 15),
        ("# \u2028\n[appliance]\ncountry = 'DE{}' # \u00a0\n", 3, 14),
        ("[appliance]\nmesh_name = 'a{}b'\n", 2, 15),
        ("[tcp]\n'po{}rt' = 1\n", 2, 4),
    ],
)
@pytest.mark.parametrize("character", "\u00a0\u200b\ufeff\u2028\u202e")
def test_what_cannot_be_seen_in_a_text_is_named_and_nothing_else_is_said_of_it(text, line, column, character):
    found, message = the_problem(text.format(character))
    assert found == line
    assert f"; character {column} cannot be seen: U+{ord(character):04X} (" in message


def test_in_a_list_over_several_lines_the_line_of_what_cannot_be_seen_is_named():
    line, message = the_problem("[tcp]\npeers = [\n  '192.0.2.1',\n  '192.0.2.2\u200b',\n]\n")
    assert (line, "character 13 of line 4 cannot be seen" in message) == (2, True)


def test_who_writes_a_character_by_its_number_means_it():
    assert parse('[store]\npath = "/srv/a\\u00a0b"\n').store.path == Path("/srv/a\u00a0b")


@pytest.mark.parametrize("quotes", ["\u201c\u201d", "\u201e\u201c", "\u201a\u2018", "\u00ab\u00bb", "\u2033\u2033"])
def test_typographic_quotes_are_named_with_line_and_place(quotes):
    line, message = the_problem(f"[log]\nlevel = {quotes[0]}info{quotes[1]} # \u201cwords\u201d\n")
    assert (line, f"character 9, {quotes[0]}, is no quote" in message) == (2, True)


def test_a_file_that_cannot_be_read_says_so(tmp_path):
    with pytest.raises(ConfigError, match=r"No such file.*--config"):
        load_config(tmp_path / "none.toml", HOME)
    with pytest.raises(ConfigError, match="1 MiB"):
        parse(b"#" * (1024 * 1024 + 1))
