# SPDX-License-Identifier: GPL-2.0-or-later
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.cli import main
from relay.config.file import parse_config
from relay.config.regulatory import Regulatory, barred_channels, read_regulatory
from relay.control.notices import NoticeCode, decode_notices
from relay.core.errors import DecodeError


def database(countries):
    """As the kernel has it (net/wireless/reg.c): countries, their lists of rules, the rules of all."""
    rules = sorted({rule for of in countries.values() for rule in of})
    head = 8 + 4 * (len(countries) + 1)
    sizes = [4 + (2 * len(of) + 3 & ~3) for of in countries.values()]
    first_rule = head + sum(sizes)
    where = {rule: (first_rule + 16 * number) // 4 for number, rule in enumerate(rules)}
    names, lists, at = b"", b"", head
    for (name, of), size in zip(countries.items(), sizes, strict=True):
        names += struct.pack(">2sH", name.encode(), at // 4)
        packed = struct.pack(">BBBx", 4, len(of), 0) + b"".join(struct.pack(">H", where[rule]) for rule in of)
        lists += packed.ljust(size, b"\0")
        at += size
    body = b"".join(struct.pack(">BBHIII", 16, flags, 2000, low, high, 40_000) for low, high, flags in rules)
    return b"RGDB" + struct.pack(">I", 20) + names + bytes(4) + lists + body


#: Low and high end in kHz, and flags (4: radars, 8: only answers).
RULES = {
    "DE": [(2_400_000, 2_483_500, 0), (5_150_000, 5_250_000, 0), (5_250_000, 5_350_000, 4)],
    "US": [(2_400_000, 2_472_000, 0), (5_150_000, 5_250_000, 0), (5_730_000, 5_850_000, 0)],
    "BO": [(2_400_000, 2_483_500, 8)],
    "TG": [(2_400_000, 2_483_500, 8), (5_150_000, 5_250_000, 0)],
}
DATABASE = Regulatory(database(RULES))


def problems(text):
    found = barred_channels(parse_config(text.encode(), Path("relay.toml"), {"HOME": "/"}), text, DATABASE)
    return [(problem.line, problem.message) for problem in found]


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """The database is on the machine; returns where, so that it can go."""
    where = tmp_path / "regulatory.db"
    where.write_bytes(database(RULES))
    monkeypatch.setattr(read_regulatory, "__defaults__", ((where,),))
    return where


@pytest.mark.parametrize(
    ("country", "channel", "allowed"),
    [
        ("US", 11, True),
        ("US", 12, False),
        ("US", 13, False),
        ("DE", 13, True),
        ("DE", 14, False),
        ("DE", 36, True),
        ("DE", 52, False),
        ("DE", 149, False),
        ("US", 149, True),
        ("BO", 1, False),
        ("FR", 1, None),
    ],
)
def test_channels_of_a_country(country, channel, allowed):
    assert DATABASE.allows(country, channel) is allowed


def test_a_channel_that_the_country_bars_is_told_with_those_that_work():
    """The access point ended, and nobody was told: the file had "no problem"."""
    text = "[appliance]\ncountry = 'US'\naccess_point = true\n"
    ((line, said),) = problems(text + "access_point_channel = 13\n")
    assert line == 4
    assert said.startswith(
        "appliance.access_point_channel: channel 13 is not allowed in US; choose one of 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, "
        "11, 36"
    )
    assert problems(text + "access_point_channel = 48\n") == []
    ((line, said),) = problems("[net]\ncountry = 'US'\n[net.radios.air]\nmode = 'mesh'\nchannel = 13\n")
    assert (line, said.partition(";")[0]) == (5, "net.radios.air.channel: channel 13 is not allowed in US")
    ((line, said),) = problems("[net]\ncountry = 'US'\naccess_point = 'wlan0'\naccess_point_channel = 13\n")
    assert (line, said.partition(":")[0]) == (4, "net.access_point_channel")
    # Of whom nothing is known, and who wants no Wi-Fi, nothing is said.
    assert problems(text.replace("US", "FR") + "access_point_channel = 13\n") == []
    assert problems("[appliance]\ncountry = 'US'\naccess_point_channel = 13\n") == []


def test_the_channel_of_a_mesh_that_nobody_wrote_down_is_looked_at():
    text = "[appliance]\ncountry = 'TG'\n"
    ((line, said),) = problems(text)
    assert line == 1
    assert "channel 1 is not allowed in TG; set mesh_interface" in said
    assert said.endswith("choose one of 36, 40, 44, 48")
    assert problems(text + "mesh_interface = ''\n") == []
    assert problems(text + "[net.radios.air]\nchannel = 36\n") == []
    ((_, said),) = problems(text.replace("TG", "BO"))
    assert "none is that this program knows" in said


def test_the_check_of_a_configuration_says_it(tmp_path, machine, capsys):
    path = tmp_path / "relay.toml"
    path.write_text("[appliance]\ncountry = 'US'\naccess_point = true\naccess_point_channel = 13\n")
    assert main(["check-config", "--config", str(path)]) == 78
    assert f"{path}:4: appliance.access_point_channel: channel 13 is not allowed in US" in capsys.readouterr().err
    machine.unlink()
    assert main(["check-config", "--config", str(path)]) == 0
    assert "not checked" in capsys.readouterr().out


@pytest.mark.usefixtures("machine")
def test_a_card_with_a_channel_that_the_country_bars_is_used_and_says_it(tmp_path, capsys):
    """Without a word of it, the relay was up and its access point never."""
    card, root = tmp_path / "card", tmp_path / "root"
    card.mkdir()
    path = card / "relay.toml"
    path.write_bytes(
        b"[appliance]\r\ncountry = 'US'\r\naccess_point = true\r\naccess_point_channel = 13\r\n"
        b"mesh_secret = '3f9a02c7e1b84d56908a7b6c5d4e3f21a1b2c3d4e5f60718293a4b5c6d7e8f90'\r\n"
    )
    apply = ["appliance", "apply", "--folder", str(card), "--root", str(root)]
    assert main(apply) == 0
    assert "config: line 4: appliance.access_point_channel: channel 13 is" in capsys.readouterr().err
    (notice,) = decode_notices((root / "run/mesh-relay-config/notices.json").read_bytes())
    assert notice.code is NoticeCode.CONFIG
    assert "choose one of 1, 2" in notice.text
    # All else is as the file says.
    assert (root / "run/mesh-relay-config/hostapd.conf").exists()
    path.write_bytes(path.read_bytes().replace(b"13", b"11"))
    assert main(apply) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("machine")
def test_cards_say_what_the_country_bars(tmp_path, capsys):
    for country, said in (("US", ""), ("TG", "channel 1 is not allowed in TG")):
        assert main(["appliance", "cards", "--count", "2", "--country", country, str(tmp_path / country)]) == 0
        error = capsys.readouterr().err
        assert said in error
        assert bool(error) is bool(said)
        assert (tmp_path / country / "2" / "relay.toml").exists()


@given(st.binary(max_size=200), st.integers(0, 200))
def test_any_bytes_are_a_database_or_none(noise, at):
    whole = database(RULES)
    for data in (noise, b"RGDB\0\0\0\x14" + noise, whole[:at], whole[:at] + noise + whole[at + len(noise) :]):
        try:
            found = Regulatory(data)
        except DecodeError:
            continue
        assert found.allows("US", 13) in {True, False, None}
