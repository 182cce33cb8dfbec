# SPDX-License-Identifier: GPL-2.0-or-later
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.cli import main
from relay.config.file import parse_config
from relay.config.regulatory import Regulatory, barred_channels, read_regulatory
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
}
DATABASE = Regulatory(database(RULES))


def problems(text):
    return list(barred_channels(parse_config(text.encode(), Path("relay.toml"), {"HOME": "/"}), DATABASE))


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
    (said,) = problems(text + "access_point_channel = 13\n")
    assert said.startswith("access_point_channel 13 is not allowed in US: choose one of 1, 2, 3,")
    assert problems(text + "access_point_channel = 48\n") == []
    (said,) = problems("[net]\ncountry = 'US'\n[net.radios.air]\nchannel = 13\n")
    assert "radio air: channel 13" in said
    # Of whom nothing is known, and who wants no Wi-Fi, nothing is said.
    assert problems(text.replace("US", "FR") + "access_point_channel = 13\n") == []
    assert problems("[appliance]\ncountry = 'US'\naccess_point_channel = 13\n") == []


def test_the_check_of_a_configuration_says_it(tmp_path, monkeypatch, capsys):
    path = tmp_path / "relay.toml"
    path.write_text("[appliance]\ncountry = 'US'\naccess_point = true\naccess_point_channel = 13\n")
    where = tmp_path / "regulatory.db"
    where.write_bytes(database(RULES))
    monkeypatch.setattr(read_regulatory, "__defaults__", ((where,),))
    assert main(["check-config", "--config", str(path)]) == 78
    assert "access_point_channel 13 is not allowed in US" in capsys.readouterr().err
    where.unlink()
    assert main(["check-config", "--config", str(path)]) == 0
    assert "not checked" in capsys.readouterr().out


@given(st.binary(max_size=200), st.integers(0, 200))
def test_any_bytes_are_a_database_or_none(noise, at):
    whole = database(RULES)
    for data in (noise, b"RGDB\0\0\0\x14" + noise, whole[:at], whole[:at] + noise + whole[at + len(noise) :]):
        try:
            found = Regulatory(data)
        except DecodeError:
            continue
        assert found.allows("US", 13) in {True, False, None}
