# SPDX-License-Identifier: GPL-2.0-or-later
"""Scenes of the radio lab: every file of them is right, and what is wrong is said so that one finds it."""

import pytest

from tests.radio.scene import SCENES, SceneError, load_scene, parse_scene

GOOD = """
about = "a phone, two relays and somebody on Ethernet"
[machines]
a = { bluetooth = 1, wifi = 1, ethernet = ["lan"] }
b = { wifi = 1 }
c = { ethernet = ["lan"] }
phone = { guest = "pocket", bluetooth = 1 }
[guests.pocket]
memory_mib = 128
[bluetooth]
hears = [["phone", "a"]]
loss = 0.1
[wifi]
hears = "all"
[[steps]]
name = "the phone leaves"
bluetooth = { hears = [] }
unplug = [["c", "lan"]]
"""


@pytest.mark.parametrize("name", sorted(path.stem for path in SCENES.glob("*.toml")))
def test_every_scene_of_the_lab_can_be_loaded(name):
    assert load_scene(name).about


def test_a_scene_says_who_is_where_who_hears_whom_and_what_changes():
    scene = parse_scene("x", GOOD)
    assert scene.guests == {"main": 256, "pocket": 128}
    assert scene.segments() == ["lan"]
    assert scene.machines["a"].bluetooth == scene.machines["b"].wifi == 1
    beginning, leaves = scene.steps
    assert beginning.bluetooth.hears == {("a", "phone")}
    assert beginning.bluetooth.loss == 0.1
    assert beginning.bluetooth.latency_s is None
    assert beginning.wifi.hears == {("a", "b")}
    assert leaves.name == "the phone leaves"
    assert leaves.bluetooth.hears == frozenset()
    assert leaves.bluetooth.loss is None
    assert leaves.wifi is None
    assert leaves.unplug == (("c", "lan"),)


def changed(old, new):
    assert old in GOOD
    return GOOD.replace(old, new, 1)


WRONG = {
    "about = ": "Invalid value",
    changed("about", "abuot"): "unknown 'abuot'; there are: about",
    "about = 'x'": "has no [machines]",
    changed("b = { wifi", "B = { wifi"): "machine 'B': a name has",
    changed("b = { wifi = 1 }", "b = { wifi = 9 }"): "machine 'b': `wifi` is a number of radios, 0 to 8",
    changed("b = { wifi = 1 }", "b = { wifi = true }"): "machine 'b': 'wifi' is of the wrong type",
    changed("b = { wifi = 1 }", "b = { bluetooth = 1 }"): "a and b have Bluetooth and share guest 'main'",
    changed("bluetooth = 1 }\n[guests", "wifi = 1 }\n[guests"): "Wi-Fi reaches no further than one guest",
    changed("bluetooth = 1 }\n[guests", "ethernet = ['lan'] }\n[guests"): "segment 'lan' reaches no further than one",
    changed("[guests.pocket]", "[guests.bag]"): "there is no machine in guest 'bag'",
    changed('["phone", "a"]', '["phone", "b"]'): "bluetooth: 'b' has no bluetooth; those that have: a, phone",
    changed('["phone", "a"]', '["phone"]'): "is no pair of machines",
    changed('hears = "all"', 'hears = "none"'): '`hears` is "all", or a list of pairs',
    changed("loss = 0.1", "loss = 1"): "the beginning, bluetooth: `loss` is a share",
    changed("loss = 0.1", "bytes_per_s = 0"): "`bytes_per_s` more than 0",
    changed('name = "the phone leaves"', ""): "step 1 has no name",
    changed('[["c", "lan"]]', '[["b", "lan"]]'): "step 1 (the phone leaves): b has no Ethernet on 'lan'",
    GOOD + '[[steps]]\nname = "the phone leaves"': "two steps with the name 'the phone leaves'",
}


@pytest.mark.parametrize("text", WRONG, ids=WRONG.values())
def test_what_is_wrong_is_named_with_its_place(text):
    with pytest.raises(SceneError) as caught:
        parse_scene("x", text)
    assert str(caught.value).startswith("scene x: ")
    assert WRONG[text] in str(caught.value)


def test_more_pairs_on_wifi_than_the_kernel_can_tell_apart_are_refused():
    machines = "".join(f"m{number} = {{ wifi = 1 }}\n" for number in range(9))
    with pytest.raises(SceneError, match="36 pairs hear each other on Wi-Fi, and at most 32 can"):
        parse_scene("x", f'about = "crowd"\n[machines]\n{machines}[wifi]\nhears = "all"\n')


def test_an_unknown_scene_is_answered_with_those_there_are():
    with pytest.raises(SceneError, match=r"there is no scene 'nowhere'; there are: .*ibss"):
        load_scene("nowhere")
