# SPDX-License-Identifier: GPL-2.0-or-later
import base64
import re
from dataclasses import fields
from pathlib import Path

import pytest

from relay.appliance.check import check
from relay.config.appliance import EXAMPLE, ApplianceConfig
from relay.config.board import BoardConfig
from relay.config.file import ConfigError

ED25519 = base64.b64encode(b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + bytes(32)).decode()


def read(text):
    return check(text.encode(), Path("relay.toml")).appliance


def problems(text):
    with pytest.raises(ConfigError) as caught:
        check(text.encode(), Path("relay.toml"))
    return [(problem.line, problem.message) for problem in caught.value.problems]


def test_the_file_on_the_card_says_what_the_defaults_are():
    found = check(EXAMPLE.read_bytes(), EXAMPLE)
    assert found.appliance == ApplianceConfig()
    assert found.config.board == BoardConfig()


def test_the_file_on_the_card_names_every_setting_below_a_remark():
    lines = EXAMPLE.read_text().splitlines()
    for item in (*fields(ApplianceConfig), *fields(BoardConfig)):
        at = next(number for number, line in enumerate(lines) if line.startswith(f"{item.name} = "))
        above = next(line for line in reversed(lines[:at]) if " = " not in line or line.startswith("#"))
        assert above.startswith("#"), item.name


def test_without_a_country_nothing_uses_a_radio():
    assert not read("[tcp]\nport = 1\n").wifi
    assert not read("[tcp]\nport = 1\n").joins_mesh


def test_a_country_is_taken_as_people_write_it():
    assert read("[appliance]\ncountry = 'de '\n").country == "DE"


@pytest.mark.parametrize(
    ("text", "line", "remedy"),
    [
        ("[appliance]\ncountry = 'UK'\n", 2, '"GB"'),
        ("[appliance]\ncountry = 'Germany'\n", 2, "two letters"),
        ("[appliance]\ncountry = 49\n", 2, "two letters"),
        ("[appliance]\ncuntry = 'DE'\n", 2, "did you mean country"),
        ("[appliance]\nhostname = 'my relay'\n", 2, "without dots and spaces"),
        ("[appliance]\nmesh_name = ''\n", 2, "1 to 32"),
        (f"[appliance]\nmesh_name = '{'ä' * 17}'\n", 2, "1 to 32"),
        ('[appliance]\naccess_point_name = "a\\nb"\n', 2, "1 to 32"),
        ("[appliance]\nmesh_secret = 'short'\n", 2, "64 hexadecimal"),
        ("[appliance]\nmesh_secret = 'draw'\n", 2, "relay-status.txt.*`relay appliance cards`"),
        ("[appliance]\naccess_point_password = 'short'\n", 2, "8 to 63"),
        ('[appliance]\naccess_point_password = "12345678\\nssid=x"\n', 2, "8 to 63"),
        ("[appliance]\nmesh_interface = 'wlan 0'\n", 2, "no interface name"),
        ("[appliance]\naccess_point = true\n", 2, "needs the country"),
        (
            "[appliance]\ncountry = 'DE'\naccess_point = true\nmesh_interface = 'wifi0'\n",
            4,
            "one radio cannot be both",
        ),
        ("[appliance]\ncountry = 'DE'\nlan_bridge = true\nuplink_forwarding = true\n", 4, "choose one"),
        ("[appliance]\nlan_bridge = true\n", 2, "nothing to bridge"),
        ("[appliance]\ncountry = 'DE'\nlan_bridge = true\nethernet_interface = ''\n", 4, "eth0"),
        ("[appliance]\nssh_keys = 'ssh-ed25519 AAAA'\n", 2, "write a list"),
        ("[appliance]\nsticks = 'report'\n", 2, "write a list of report and shelf"),
        ("[appliance]\nsticks = ['reports']\n", 2, r"\[] reads no stick"),
        ("[appliance]\nsticks = [['report']]\n", 2, "write a list of report and shelf"),
        ("[appliance]\nssh_keys = ['ssh-dss AAAA']\n", 2, "begins with one of"),
        ("[appliance]\nssh_keys = ['ssh-ed25519 AAAA!']\n", 2, "copy the whole line"),
        (f"[appliance]\nssh_keys = ['ssh-rsa {ED25519}']\n", 2, "copy the whole line"),
        ("[appliance]\nssh_keys = ['-----BEGIN OPENSSH PRIVATE KEY-----']\n", 2, "private key"),
        ("[appliance]\nstorage = 'volatile'\n[store]\nstorage = 'durable'\n", 4, "remove this line"),
        ("[appliance]\nstorage = 'plain'\n[store]\nstorage = 'volatile'\n", 4, "remove this line"),
        ("[store]\nstorage = 'durable'\n", 2, "below .appliance."),
        ("[appliance]\ncountry = 'DE'\n[net]\ncountry = 'FR'\n", 2, "remove one"),
        ("[store]\nmax_bytes = 1\n", 2, "whole number"),
    ],
)
def test_each_mistake_is_told_with_its_line_and_a_remedy(text, line, remedy):
    (found,) = problems(text)
    assert found[0] == line
    assert re.search(remedy, found[1])


def test_mistakes_of_all_sections_are_told_at_once():
    found = problems("[appliance]\ncountry = 'XX'\n[tcp]\nport = 'a'\n[board]\npanic_hold_s = 1\n")
    assert [line for line, _ in found] == [2, 4, 6]


def test_secrets_and_passwords_are_shown_nowhere():
    text = "[appliance]\nmesh_secret = 'hunter2hunt'\naccess_point_password = 'hunter2'\n"
    assert "hunter2" not in str(problems(text))
    config = read("[appliance]\nmesh_secret = '3f9a02c7e1b84d56908a7b6c5d4e3f21a1b2c3d4e5f60718293a4b5c6d7e8f90'\n")
    assert "3f9a02c7" not in repr(config)


def test_a_key_keeps_neither_options_nor_the_name_of_its_owner():
    keys = read(f"[appliance]\nssh_keys = ['ssh-ed25519 {ED25519} anna@laptop']\n").ssh_keys
    assert keys == (f"ssh-ed25519 {ED25519}",)
    options = f"[appliance]\nssh_keys = ['command=\"x\" ssh-ed25519 {ED25519}']\n"
    assert "begins with" in problems(options)[0][1]
