# SPDX-License-Identifier: GPL-2.0-or-later
import codecs
import configparser
import hashlib
import itertools
import os
import random
import re
import shutil
import stat
import subprocess
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from relay.appliance import apply
from relay.appliance.check import check
from relay.appliance.closed import closing
from relay.appliance.data_state import DataState, Trouble, read_state, write_state
from relay.appliance.effective import sae_secret
from relay.appliance.network import draw_segment
from relay.appliance.plan import Facts, make_plan
from relay.board.card import CLOSED, Card
from relay.board.device import Part
from relay.board.status_file import status_text
from relay.cli import main
from relay.config.appliance import EXAMPLE
from relay.config.credentials import MESH_SECRET, WIFI_SECRET, resolve
from relay.config.file import MAX_CONFIG_BYTES, parse_config
from relay.config.textfile import END
from relay.control.notices import NoticeCode, decode_notices

FACTS = Facts(segment=draw_segment(random.Random(4).randbytes), stand_in=hashlib.sha256(b"drawn").hexdigest())
SECRET = "3f9a02c7e1b84d56908a7b6c5d4e3f21a1b2c3d4e5f60718293a4b5c6d7e8f90"
OUTPUT = "run/mesh-relay-config"
PHONES = "[appliance]\ncountry = 'DE'\naccess_point = true\n"


@pytest.fixture
def card(tmp_path):
    folder = tmp_path / "card"
    folder.mkdir()
    return folder


@pytest.fixture
def boot(card, tmp_path):
    """Write a relay.toml, or none, and apply it; returns the root it is applied to."""

    def apply_it(raw):
        if raw is not None:
            (card / "relay.toml").write_bytes(raw if isinstance(raw, bytes) else raw.encode())
        root = tmp_path / "root"
        apply.write_plan(apply.read_plan(card, FACTS), root)
        return root

    return apply_it


def test_a_folder_that_is_none_is_told(tmp_path, capsys):
    assert main(["appliance", "apply", "--folder", str(tmp_path / "none"), "--root", str(tmp_path)]) == 1
    assert "none is no folder; name the one in which relay.toml lies" in capsys.readouterr().err


def effective(root):
    """What all processes together are told."""
    raw = (root / OUTPUT / "relay.toml").read_bytes()
    parse_config(raw, Path("relay.toml"), {"HOME": "/"})
    document = tomllib.loads(raw.decode())
    environ = {"CREDENTIALS_DIRECTORY": str(root / OUTPUT)}
    for name, tables in (
        (MESH_SECRET, [document.get("mesh", {})]),
        (WIFI_SECRET, document["net"].get("radios", {}).values()),
    ):
        for table in tables:
            if "secret" in table:
                table["secret"] = resolve(table["secret"], name, environ)
    return document


def notices(root):
    return decode_notices((root / OUTPUT / "notices.json").read_bytes())


def codes(root):
    return [notice.code for notice in notices(root)]


def test_a_missing_file_means_bluetooth_and_ethernet(boot):
    root = boot(None)
    assert codes(root) == [NoticeCode.NO_COUNTRY]
    assert effective(root)["store"] == {"storage": "volatile"}
    assert "radios" not in effective(root)["net"]
    assert not (root / OUTPUT / "hostapd.conf").exists()


@pytest.mark.parametrize(
    ("text", "data", "restart"),
    [
        ("storage = 'amnesic'", DataState(size_bytes=5 << 30), "held"),
        ("storage = 'durable'", DataState(size_bytes=5 << 30), "held"),
        ("storage = 'durable'", DataState(trouble=Trouble.LOCKED), "held"),
        ("storage = 'volatile'", None, "held"),
        ("storage = 'plain'", DataState(size_bytes=5 << 30), "quiet"),
        # What it was to keep is in memory.
        ("storage = 'plain'", DataState(trouble=Trouble.UNUSABLE), "held"),
        ("storage = 'plain'\nupdate_relays = 'wait'", DataState(size_bytes=5 << 30), "never"),
    ],
)
def test_software_of_other_relays_is_started_with_when_nothing_is_lost_by_it(card, tmp_path, text, data, restart):
    (card / "relay.toml").write_text(f"[appliance]\n{text}\n{END}\n")
    apply.write_plan(apply.read_plan(card, replace(FACTS, data=data)), tmp_path)
    assert effective(tmp_path)["updates"] == {"relays": True, "restart": restart}


@pytest.mark.parametrize("raw", [f"[appliance]\nupdate_relays = 'off'\n{END}\n", "[appliance]\nnonsense", bytes(512)])
def test_where_the_operator_says_so_or_may_have_said_so_other_relays_software_is_left_alone(boot, raw):
    assert "updates" not in effective(boot(raw))


def test_a_file_that_was_cut_off_opens_no_mesh_and_keeps_nothing_on_the_card(boot):
    whole = EXAMPLE.read_bytes().replace(b'mesh_secret = ""', f'mesh_secret = "{SECRET}"'.encode())
    for raw in (*(whole[:end] for end in range(0, len(whole) - 2, 41)), b"\n \n", bytes(512), bytes(len(whole))):
        root = boot(raw)
        assert codes(root)[0] is NoticeCode.CONFIG, raw[-60:]
        assert mesh_of(root)["secret"] == (SECRET if SECRET.encode() in raw else FACTS.stand_in), raw[-60:]
        assert effective(root)["store"]["storage"] == "volatile"


@pytest.mark.parametrize("mark", [(b"", "utf-8"), (codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le")])
def test_a_windows_editor_changes_nothing(boot, mark):
    text = "[appliance]\r\ncountry = 'DE'\r\nmesh_name = 'Grüße'\r\n"
    root = boot(mark[0] + text.encode(mark[1]))
    assert notices(root) == []
    assert effective(root)["net"] == {
        "country": "DE",
        "radios": {"mesh": {"interface": "wifi1", "mesh_id": "Grüße", "secret": ""}},
    }


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ("[appliance]\ncountry = 'DE'\nmesh_name = 5\n", "line 3:"),
        ("[appliance]\ncountry = “DE”\n", 'line 2: .*type " instead'),
        ("[appliance]\naccess_point = True\n", "line 2: .*True is written true"),
        ("[appliance]\naccess_point = no # not yet\n", "line 2: .*no is written false"),
        ("[appliance]\ncountry = DE\n", 'line 2: DE is a text.*"DE"'),
        ("[appliance]\ncountry = 'DE'\naccess_point_password = '12 characters or more'\n", "line 3: .*example says"),
        ("[appliance]\ncountry = 'DE'\n[tcp]\nprot = 1\n", "line 4: .*did you mean port"),
        (b"{\\rtf1\\ansi [appliance]}", "word processor"),
        (b"\0" * 100, "zero bytes"),
        (b"#" * (MAX_CONFIG_BYTES + 1), "larger than 1 MiB"),
        (os.urandom(4096) + b"\xff", "plain text|Invalid|zero"),
        ("a = " + "[" * 50_000, "nested too deeply"),
    ],
)
def test_a_bad_file_starts_with_what_is_safe_and_says_where_it_is_wrong(boot, raw, said):
    root = boot(raw)
    found = notices(root)
    assert found[0].code is NoticeCode.CONFIG
    assert "Wi-Fi is off" in found[0].text
    # Nobody who wrote one is told to.
    assert NoticeCode.NO_COUNTRY not in codes(root)
    assert any(re.search(said, notice.text) for notice in found[1:])
    document = effective(root)
    assert document["store"]["storage"] == "volatile"
    assert "radios" not in document["net"]
    assert not (root / OUTPUT / "hostapd.conf").exists()


def test_files_that_were_meant_to_be_it_are_named(boot, card):
    (card / "relay.toml.txt").write_text("[appliance]\ncountry = 'DE'\n")
    (card / "._relay.toml").write_bytes(b"a Mac leaves this")
    root = boot("[tcp]\nport = 4270\n")
    hints = [notice.text for notice in notices(root) if notice.code is NoticeCode.HINT]
    assert hints == ["relay.toml.txt is not read; if it is the one you mean, name it relay.toml."]


def test_what_an_earlier_file_asked_for_is_gone(boot):
    root = boot(PHONES)
    assert (root / OUTPUT / "hostapd.conf").exists()
    networkd = root / "run/systemd/network"
    (networkd / "99-somebody-elses.network").write_text("")
    boot("")
    assert not (root / OUTPUT / "hostapd.conf").exists()
    assert not list(networkd.glob("*phones*"))
    assert (networkd / "99-somebody-elses.network").exists()


def test_secrets_are_for_root_only(boot):
    root = boot(PHONES + f"mesh_secret = '{SECRET}'\naccess_point_password = 'staple staple'\n")
    for path in (root / OUTPUT).iterdir():
        text = path.read_text()
        if SECRET in text or "staple" in text or sae_secret(SECRET) in text:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path.name
    # What every process reads has neither.
    told = (root / OUTPUT / "relay.toml").read_text()
    assert SECRET not in told
    assert sae_secret(SECRET) not in told
    assert effective(root)["mesh"]["secret"] == SECRET
    assert effective(root)["net"]["radios"]["mesh"]["secret"] == sae_secret(SECRET)


def test_what_the_operator_wrote_for_the_services_stays(boot):
    text = (
        "[appliance]\ncountry = 'DE'\nlan_bridge = true\n[tcp]\nport = 4000\n[http]\nenabled = false\n"
        "[net.radios.far]\ninterface = 'wlan7'\nmode = 'mesh'\nbatman = true\n"
    )
    document = effective(boot(text))
    assert document["tcp"] == {"port": 4000}
    assert document["net"]["radios"] == {"far": {"interface": "wlan7", "mode": "mesh", "batman": True}}
    assert document["net"]["bridge"] == ["eth0", "bat0"]
    assert "appliance" not in document


def test_a_usb_radio_can_be_the_access_point_on_5_ghz_with_the_mesh_on_another(boot):
    root = boot(
        PHONES + "access_point_interface = 'wifi1'\naccess_point_channel = 36\nmesh_interface = 'wifi2'\n"
        "lan_bridge = true\n"
    )
    lines = (root / OUTPUT / "hostapd.conf").read_text().splitlines()
    assert {"hw_mode=a", "channel=36", "max_num_sta=128"} <= set(lines)
    assert (root / OUTPUT / "access-point-wifi1").exists()
    net = effective(root)["net"]
    assert (net["access_point"], net["access_point_channel"]) == ("wifi1", 36)
    assert net["radios"]["mesh"]["interface"] == "wifi2"
    assert net["bridge"] == ["eth0", "wifi2", "wifi1"]
    assert "hw_mode=g" in (boot(PHONES) / OUTPUT / "hostapd.conf").read_text()
    for channel in ("0", "14", "52", "true"):
        root = boot(PHONES + f"access_point_channel = {channel}\n")
        assert codes(root)[0] is NoticeCode.CONFIG
        assert any("without radars" in notice.text for notice in notices(root))


def test_radios_stay_off_without_a_country_whoever_asks_for_them(boot):
    assert "radios" not in effective(boot("[net.radios.far]\ninterface = 'wlan7'\n"))["net"]


def test_a_store_in_memory_is_small(boot):
    store = effective(boot("[appliance]\nstorage = 'volatile'\n"))["store"]
    assert store["max_bytes"] == 64 << 20
    assert store["path"].startswith("/var/cache/")


@pytest.mark.parametrize(
    ("storage", "acknowledged"), [("amnesic", "volatile"), ("plain", "durable"), ("durable", "durable")]
)
def test_a_store_is_full_before_its_partition_is(card, storage, acknowledged):
    (card / "relay.toml").write_text(f"[appliance]\nstorage = '{storage}'\n[store]\nmax_bytes = 100_000_000_000\n")

    def store(size_bytes):
        plan = apply.read_plan(card, replace(FACTS, data=DataState(size_bytes=size_bytes)))
        content = next(file.content for file in plan.files if file.path.name == "relay.toml")
        return tomllib.loads(content.decode())["store"], [notice.code for notice in plan.notices]

    assert store(255 << 20)[0]["max_bytes"] == (255 << 20) * 7 // 10 - (32 << 20)
    assert store(1 << 50)[0] == {
        "fallback": "/var/cache/mesh-relay", "max_bytes": 100_000_000_000, "storage": acknowledged
    }  # fmt: skip
    for missing in (0, 40 << 20):
        found, codes = store(missing)
        assert found["storage"] == "volatile"
        assert found["max_bytes"] == 64 << 20
        assert "fallback" not in found
        assert NoticeCode.STORAGE in codes


@pytest.mark.parametrize(
    ("text", "forgets"),
    [
        ("[appliance]\nstorage = 'amnesic'\n", True),
        ("[appliance]\nstorage = 'volatile'\n", True),
        ("[store]\nstorage = 'volatile'\n", True),
        ("[appliance]\nstorage = 'amnesic'\n[store]\nstorage = 'volatile'\n", True),
        ("[appliance]\nstorage = 'plain'\n", False),
        ("[appliance]\nstorage = 'plain'\n[store]\nstorage = 'durable'\n", False),
        ("[appliance]\nstorage = 'durable'\n", False),
        ("[appliance]\nstorage = 'volatile'\n[store]\nstorage = 'durable'\n", False),
        # Each of these keeps its messages in memory, by a mistake.
        ("[appliance]\nstorage = 'volatile'\ncountry = 'Germany'\n", False),
        ("[appliance]\nstorage = 'volatil", False),
        ("[appliance]\nstorage = 'Volatile'\n", False),
        ("[store]\nstorage = 'durable'\n", False),
        # Right, and it may be the beginning of one that said something else.
        ("[appliance]\ncountry = 'DE'\n", False),
        ("", False),
        (None, False),
    ],
)
def test_what_was_kept_is_forgotten_by_the_operators_word_only(card, text, forgets):
    if text is not None:
        (card / "relay.toml").write_text(text)
    assert apply.read_plan(card, FACTS).forgets is forgets


@pytest.mark.parametrize(
    ("text", "trouble", "said"),
    [
        ("storage = 'plain'", Trouble.DURABLE_KEPT, "encrypted .* neither used nor erased"),
        ("storage = 'durable'", Trouble.PLAIN_KEPT, "not encrypted, that are neither used nor erased"),
        ("storage = 'amnesic'", Trouble.RESISTS, "cannot be erased"),
        ("storage = 'durable'", Trouble.LOCKED, "not open yet"),
        ("storage = 'durable'", Trouble.UNMADE, "no passphrase"),
        ("storage = 'Plain'", Trouble.PLAIN_KEPT, "neither used nor erased"),
        ("", Trouble.PLAIN_KEPT, "neither used nor erased"),
    ],
)
def test_while_the_card_is_not_used_messages_are_in_memory_and_that_is_told(card, text, trouble, said):
    (card / "relay.toml").write_text(f"[appliance]\n{text}\n")
    plan = apply.read_plan(card, replace(FACTS, data=DataState(trouble=trouble)))
    (found,) = [notice for notice in plan.notices if notice.code is NoticeCode.STORAGE]
    assert re.search(said, found.text)
    content = next(file.content for file in plan.files if file.path.name == "relay.toml")
    store = tomllib.loads(content.decode())["store"]
    assert store["storage"] == "volatile"
    assert store["path"].startswith("/var/cache/")


def test_that_something_was_erased_is_told_once(card):
    (card / "relay.toml").write_text("[appliance]\nstorage = 'amnesic'\n")
    plan = apply.read_plan(card, replace(FACTS, data=DataState(size_bytes=1 << 30, forgot=True)))
    assert any(notice.code is NoticeCode.HINT and "was erased at this start" in notice.text for notice in plan.notices)


def test_what_the_start_left_is_read_and_of_anything_else_nothing_is_used(tmp_path):
    state = DataState(size_bytes=5 << 30, trouble=Trouble.LOCKED, was_closed=True, forgot=True)
    path = tmp_path / "of its own/state.json"
    write_state(state, path)
    assert read_state(path) == state
    unusable = DataState(trouble=Trouble.UNUSABLE)
    assert read_state(tmp_path / "none") == unusable
    for text in ("", "{}", "[]", '{"size_bytes": 5, "trouble": "new", "was_closed": false, "forgot": false}'):
        path.write_text(text)
        assert read_state(path) == unusable


@pytest.mark.parametrize(
    ("left", "code", "said"),
    [
        ("", NoticeCode.HINT, "this start finished it"),
        (
            "the drive MESH-RELAY\n",
            NoticeCode.STORAGE,
            "could not finish it: the drive MESH-RELAY cannot be written over",
        ),
    ],
)
def test_a_start_that_went_on_with_an_erase_says_so_and_uses_nothing_that_resists(card, tmp_path, left, code, said):
    (card / "relay.toml").write_text(f"[appliance]\nmesh_secret = '{SECRET}'\n")
    root = tmp_path / "root"
    outcome = root / "run/mesh-relay-erasure/left"
    outcome.parent.mkdir(parents=True)
    outcome.write_text(left)
    assert main(["appliance", "apply", "--folder", str(card), "--root", str(root)]) == 0
    assert (code, True) in [(notice.code, said in notice.text) for notice in notices(root)]
    # relay.toml is read where nothing resisted: then it is a new one.
    assert mesh_of(root).get("secret", "") == ("" if left else SECRET)


def test_a_folder_that_is_no_partition_has_no_room(tmp_path):
    assert apply.size_of(tmp_path) == 0
    assert apply.size_of(tmp_path / "none") == 0
    assert apply.size_of(Path("/proc").parent) > 0


def test_keys_alone_open_the_way_to_log_in(boot):
    root = boot("")
    assert not (root / OUTPUT / "authorized_keys").exists()
    assert "dport 22" not in (root / OUTPUT / "nftables.conf").read_text()


@pytest.mark.parametrize(
    ("text", "uses"),
    [
        ('hostname = "gate"', "report\nupdate\n"),
        ('sticks = ["shelf", "report", "shelf"]', "shelf\nreport\n"),
        ("sticks = []", None),
        # Whatever else is wrong: the file may have asked for that.
        ('sticks = ["report", "shelf"]\nhostname = 3', None),
    ],
)
def test_sticks_are_used_for_what_the_operator_wrote_and_for_participants_never_by_default(boot, text, uses):
    root = boot(f"[appliance]\n{text}\n".encode())
    path = root / OUTPUT / "sticks"
    assert (path.read_text() if path.exists() else None) == uses


def test_two_relays_draw_different_segments_beside_the_fixed_address():
    drawn = [draw_segment(random.Random(seed).randbytes) for seed in range(100)]
    # Of 2,048 there are, and the /64 of IPv6 is another one each time.
    assert len({segment.ipv4 for segment in drawn}) >= 95
    assert len({segment.ipv6 for segment in drawn}) == 100
    assert len({segment.election for segment in drawn}) == 100
    for segment in drawn:
        assert segment.ipv4.ip.is_private
        assert segment.ipv6.ip.is_private
        assert segment.ipv4.network.network_address.packed[1] >= 128


def variants():
    """Every combination of the settings that shape networks."""
    flags = ("access_point", "lan_bridge", "uplink_forwarding")
    for country, ethernet, *chosen in itertools.product(("", "DE"), ("auto", "client", "server"), *[(False, True)] * 3):
        lines = [f"country = '{country}'", f"ethernet = '{ethernet}'"]
        lines += [f"{name} = {str(value).lower()}" for name, value in zip(flags, chosen, strict=True)]
        yield "[appliance]\n" + "\n".join(lines) + "\n"


LIBP2P = "[libp2p]\nenabled = true\ninterfaces = ['wifi0', 'eth1']\ngateway = '10.42.70.1:4280'\n"


def possible():
    """Those of them that do not contradict themselves, each without and with what else opens ports."""
    for text in itertools.chain.from_iterable((each, each + LIBP2P) for each in variants()):
        try:
            yield make_plan(check(text.encode(), Path("relay.toml")), FACTS), text
        except apply.ConfigError:
            continue


@pytest.mark.tools
def test_the_kernel_takes_every_set_of_rules():
    assert shutil.which("nft"), "nft is not there; PATH=$PATH:/usr/sbin, or `.ci/tools`, which installs it"
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    count = 0
    for plan, text in possible():
        rules = next(file.content for file in plan.files if file.path.name == "nftables.conf")
        # Twice in one network namespace: a second start replaces the first one's rules.
        script = 'nft -f - <<<"$RULES" && nft -f - <<<"$RULES" && nft list ruleset | grep -c \'policy drop\''
        found = subprocess.run(
            ["unshare", *user, "--net", "bash", "-c", script],
            env=os.environ | {"RULES": rules.decode()},
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        assert (found.returncode, found.stdout) == (0, "2\n"), f"{text}\n{found.stderr}"
        count += 1
    assert count >= 30


def rules_of(text):
    plan = make_plan(check(f"[appliance]\ncountry = 'DE'\n{text}".encode(), Path("relay.toml")), FACTS)
    return next(file.content.decode() for file in plan.files if file.path.name == "nftables.conf")


@pytest.mark.parametrize(
    ("settings", "accepted"),
    [
        ("", []),
        ("port = 5000\ngateway = '0.0.0.0:4280'", []),
        ("enabled = true", ["tcp dport 4271"]),
        ("enabled = true\nport = 5000\ngateway = '[::]:4280'", ["tcp dport 5000", "tcp dport 4280"]),
        (
            "enabled = true\ninterfaces = ['wifi0', 'eth1']\ngateway = '10.42.70.1:4280'",
            [
                'iifname { "wifi0", "eth1" } tcp dport 4271',
                'iifname { "wifi0", "eth1" } ip daddr 10.42.70.1 tcp dport 4280',
            ],
        ),
        (
            "enabled = true\ngateway = '[fd00::1]:4280'",
            ["tcp dport 4271", "ip6 daddr fd00::1 tcp dport 4280"],
        ),
    ],
)
def test_the_ports_of_libp2p_are_open_where_it_is_on_and_nowhere_else(settings, accepted):
    """That the kernel holds it so is in tests/netns/test_libp2p_ports.py."""
    rules = rules_of(f"[libp2p]\n{settings}\n")
    without = rules_of("")
    added = [line.strip() for line in rules.splitlines() if line not in without.splitlines()]
    assert [line for line in added if "5353" not in line] == [f"{rule} accept" for rule in accepted]


def test_libp2p_is_found_by_multicast_where_relays_are_not():
    text = "[tcp]\ndiscovery = false\n[libp2p]\nenabled = true\ninterfaces = ['wifi0']\n"
    found = [line.strip() for line in rules_of(text).splitlines() if "5353" in line]
    assert found == [
        'iifname { "wifi0" } ip daddr 224.0.0.251 udp dport 5353 accept',
        'iifname { "wifi0" } ip6 daddr ff02::fb udp dport 5353 accept',
    ]
    assert "5353" not in rules_of(text.replace("enabled = true", "enabled = false"))


def test_only_who_asks_for_it_gets_forwarding():
    for plan, text in possible():
        content = {file.path.name: file.content.decode() for file in plan.files}
        rules = content["nftables.conf"]
        forwards = "oifname" in rules.partition("chain forward")[2].partition("}\n}")[0]
        assert forwards == ("uplink_forwarding = true" in text)
        assert any("IPv4Forwarding=yes" in one for one in content.values()) == ("uplink_forwarding = true" in text)


def test_networkd_hands_out_no_name_and_takes_no_time():
    for plan, _ in possible():
        for file in plan.files:
            if file.path.suffix != ".network":
                continue
            parser = configparser.ConfigParser(strict=False)
            parser.optionxform = str
            parser.read_string(file.content.decode())
            assert "Match" in parser
            if parser.get("Network", "DHCP", fallback="no") != "no":
                assert parser["DHCPv4"]["Anonymize"] == "yes"
                assert parser["DHCPv4"]["UseNTP"] == "no"


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        # The secret is there to be read, whatever else is wrong: it stays the mesh's.
        (f"[appliance]\ncountry = “DE”\nmesh_secret = '{SECRET}'\n", SECRET),
        (f"[appliance]\ncuntry = 'DE'\nmesh_secret = '{SECRET}'\n", SECRET),
        (f"[tcp]\nprot = 1\n[mesh]\nsecret = '{SECRET}'\n", SECRET),
        (f"[appliance]\nmesh_secret = '{SECRET}\n", SECRET),
        # It is not, so nobody is let in.
        (f"[appliance]\ncountry = 'XX'\nmesh_secert = '{SECRET}'\n", FACTS.stand_in),
        (f"[appliance]\nmesh_secret = '{SECRET[1:]}'\n", FACTS.stand_in),
        ("[appliance]\nmesh_secret = 'aaaaaaaaaaaa'\n", FACTS.stand_in),
        ("[appliance]\nmesh_secret = '12 characters or more'\n", FACTS.stand_in),
        ("[appliance]\nmesh_secret = yes\n", FACTS.stand_in),
        ("[appliance]\nmeshsecret = 'x'\n", FACTS.stand_in),
        ("mesh = { secret = 'x' }\n", FACTS.stand_in),
        ("[mesh]\nsecret = 'credential'\n", FACTS.stand_in),
        ("[appliance]\nmesh_secret = 'credential'\n", FACTS.stand_in),
        (f"[appliance]\nmesh_secret = '{SECRET}'\n[mesh]\nsecret = '{SECRET[::-1]}'\n", FACTS.stand_in),
        (b"[appliance]\n\xff\xff garbage", FACTS.stand_in),
        (b"\0" * 5000, FACTS.stand_in),
        # None was meant.
        ("[appliance]\ncuntry = 'DE'\nmesh_secret = ''\n", ""),
        ("[appliance]\n# mesh_secret = 'x'\ncountry = 5\nmesh_name = 'abc'\n", ""),
    ],
)
def test_a_mistake_does_not_open_a_closed_mesh(boot, text, secret):
    root = boot(text)
    assert NoticeCode.CONFIG in codes(root)
    assert mesh_of(root).get("secret", "") == secret
    first = notices(root)[0].text
    assert ("keeps all others out" in first) == (secret == FACTS.stand_in)
    assert ("stays closed" in first) == (secret == SECRET)
    assert not any(SECRET[:32] in notice.text or FACTS.stand_in in notice.text for notice in notices(root))


@pytest.mark.parametrize(
    "mistake",
    ["[appliance]\ncuntry = 'DE'\n", "[appliance]\ncountry = DE\n", "[appliance]\nstorage = 'x'\nlan_bridge = True\n"],
)
def test_a_mistake_elsewhere_brings_no_button_back_and_no_light(boot, mistake):
    root = boot(f"{mistake}[board]\nled = false\npanic_button = false # no\npanic_hold_s = 99\n[tcp]\nport = 4270\n")
    assert NoticeCode.CONFIG in codes(root)
    assert effective(root)["board"] == {"led": False, "panic_button": False}


def mesh_of(root):
    return effective(root).get("mesh", {})


def test_the_card_s_own_file_tells_of_no_secret():
    assert closing(EXAMPLE.read_bytes()) is None
    assert closing(EXAMPLE.read_bytes().replace(b'country = ""', b"country = DE")) is None


@pytest.mark.parametrize(
    ("mesh", "clients"),
    [
        ("", True),
        ("[mesh]\nopen_to_clients = false\n", False),
        ("[mesh]\nopen_to_clients = true\n", True),
        ("[mesh]\nopen_to_client = false\n", False),
        ("[mesh]\nopen_to_clients = no\n", False),
    ],
)
def test_a_mistake_does_not_let_in_clients_who_were_kept_out(boot, mesh, clients):
    root = boot(f"[appliance]\ncuntry = 'DE'\nmesh_secret = '{SECRET}'\n{mesh}")
    assert mesh_of(root)["secret"] == SECRET
    assert mesh_of(root).get("open_to_clients", True) is clients


def test_a_mesh_that_was_closed_stays_so_when_its_file_is_lost(card, tmp_path):
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(2048 * 512))
    ours = Card(disk=disk, boot=Part(path=disk), data=None)

    def start():
        plan = apply.read_plan(card, replace(FACTS, data=DataState(was_closed=ours.was_closed())))
        if plan.closed is not None:
            ours.remember_closed(closed=plan.closed)
        secret = next((file.content for file in plan.files if file.path.name == MESH_SECRET), b"")
        return secret.decode().strip(), plan

    def write(text):
        (card / "relay.toml").write_text(text)

    assert start()[0] == ""
    write(f"[appliance]\nmesh_secret = '{SECRET}'\n")
    assert start()[0] == SECRET
    assert disk.read_bytes().replace(CLOSED, b"").strip(b"\0") == b"", "that it was, and no more"
    (card / "relay.toml").unlink()
    secret, plan = start()
    assert secret == FACTS.stand_in
    assert "it is gone" in plan.notices[1].text
    # Nor when only its beginning is left, which is right as it stands.
    for text in ("[appliance]\ncuntry = 'DE'\n", "[appliance]\ncountry = 'DE'\n"):
        write(text)
        assert start()[0] == FACTS.stand_in
    assert "cut off" in start()[1].notices[1].text
    # Only a file that can be read opens it.
    write("[appliance]\nmesh_secret = ''\n")
    assert start()[0] == ""
    (card / "relay.toml").unlink()
    assert start()[0] == ""
    assert not any(disk.read_bytes())


def test_a_card_that_cannot_be_read_is_not_taken_for_an_open_mesh(card):
    plan = apply.unreadable_plan(apply.BootPartitionError("no card"), FACTS)
    apply.write_plan(plan, card)
    assert mesh_of(card)["secret"] == FACTS.stand_in
    assert plan.closed is None


def test_whoever_wrote_a_secret_that_is_none_is_offered_one_on_the_card_alone(boot):
    for text, offered in (("mesh_secret = 'draw'", True), ("country = 'XX'", False)):
        found = notices(boot(f"[appliance]\n{text}\n"))
        assert (NoticeCode.SECRET in [notice.code for notice in found]) == offered
        assert (SECRET in status_text(found, works=True, drawn_secret=SECRET).decode("utf-8-sig")) == offered


def test_a_mistake_of_ours_is_no_reason_not_to_start(boot, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(apply, "check", broken)
    root = boot(f"[appliance]\nmesh_secret = '{SECRET}'\n")
    assert "ZeroDivisionError" in notices(root)[1].text
    assert mesh_of(root)["secret"] == SECRET


def test_routers_are_believed_on_cables_alone():
    for plan, text in possible():
        content = {file.path.name: file.content.decode() for file in plan.files}
        rules = content["nftables.conf"]
        believed = re.findall(r'iifname "(.*)" icmpv6 type nd-router-advert accept', rules)
        assert set(believed) == {"eth*", "en*", "eth0"} | ({"br-mesh"} if "lan_bridge = true" in text else set())
        dropped = rules.index("icmpv6 type { nd-router-advert, nd-redirect } drop")
        assert rules.index(believed[-1]) < dropped < rules.index("ct state established,related accept")
        assert rules.index("icmp type redirect drop") < rules.index("ct state established,related accept")
        # Whose mesh is part of the segment gets addresses from it, and no way out.
        if bridge := content.get("10-relay-bridge.network"):
            assert "IPv6AcceptRA=no" in bridge
            assert "server" in text or {"UseGateway=no", "UseRoutes=no", "UseDNS=no"} <= set(bridge.split())
