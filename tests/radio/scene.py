# SPDX-License-Identifier: GPL-2.0-or-later
"""Scenes: who is where, who hears whom, and when that changes; a TOML file for each in ``scenes/``.

docs/radio-lab.md describes the format. A scene only says what there is; :mod:`tests.radio.stage` builds it.
"""

from __future__ import annotations

import itertools
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

SCENES = Path(__file__).with_name("scenes")
#: Becomes a namespace, a host name and a radio's name.
NAME = re.compile(r"[a-z][a-z0-9_]{0,14}\Z")
#: Of one kind in one machine: of Bluetooth, as many as a busy relay has clients.
MAX_RADIOS = 8
#: hwsim tells who hears whom by a mask of 32 bits for each radio; one bit for each pair.
MAX_WIFI_PAIRS = 32
DEFAULT_MEMORY_MIB = 256


class SceneError(ValueError):
    """A scene's file is wrong; the message says where."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A computer or phone; ``bluetooth`` and ``wifi`` count its radios, ``ethernet`` names the segments it is on."""

    name: str
    guest: str
    bluetooth: int
    wifi: int
    ethernet: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """Of one kind of air: the machines that hear each other, and how well. None: as it was before."""

    hears: frozenset[tuple[str, str]] | None
    loss: float | None
    latency_s: float | None
    bytes_per_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One change; ``plug`` and ``unplug`` are (machine, segment)."""

    name: str
    bluetooth: Conditions | None
    wifi: Conditions | None
    plug: tuple[tuple[str, str], ...]
    unplug: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A whole file. The first step, without a name, is how it begins."""

    name: str
    about: str
    machines: dict[str, Machine]
    guests: dict[str, int]
    steps: tuple[Step, ...]

    def segments(self):
        """Names of the Ethernet segments, in order."""
        return list(dict.fromkeys(segment for machine in self.machines.values() for segment in machine.ethernet))


def load_scene(name, folder=SCENES):
    """Read ``folder/name.toml``; raise SceneError."""
    path = folder / f"{name}.toml"
    try:
        text = path.read_text()
    except FileNotFoundError:
        known = ", ".join(sorted(file.stem for file in folder.glob("*.toml")))
        raise SceneError(f"there is no scene {name!r}; there are: {known}") from None
    return parse_scene(name, text)


def parse_scene(name, text):
    """Read a scene from the text of its file; raise SceneError."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SceneError(f"scene {name}: {error}") from None
    return _Reader(name).scene(table)


class _Reader:
    def __init__(self, name):
        self._name = name
        self._machines = {}

    def scene(self, table):
        kinds = {"about": str, "machines": dict, "guests": dict, "bluetooth": dict, "wifi": dict, "steps": list}
        self._check(table, "the file", kinds)
        if not table.get("about"):
            self._fail("says nothing in `about`")
        if not table.get("machines"):
            self._fail("has no [machines]")
        for name, settings in table["machines"].items():
            self._machines[name] = self._machine(name, settings)
        guests = self._guests(table.get("guests", {}))
        beginning = {key: table[key] for key in ("bluetooth", "wifi") if key in table}
        steps = [self._step("the beginning", "", beginning)]
        for number, settings in enumerate(table.get("steps", []), 1):
            where = f"step {number}"
            if not isinstance(settings, dict) or not isinstance(settings.get("name"), str) or not settings["name"]:
                self._fail(f"{where} has no name")
            steps.append(self._step(f"{where} ({settings['name']})", settings["name"], settings))
        names = [step.name for step in steps]
        if doubled := [name for name in names if names.count(name) > 1]:
            self._fail(f"has two steps with the name {doubled[0]!r}")
        return Scene(
            name=self._name,
            about=table["about"],
            machines=self._machines,
            guests=guests,
            steps=tuple(steps),
        )

    def _machine(self, name, settings):
        where = f"machine {name!r}"
        if not NAME.match(name):
            self._fail(f"{where}: a name has 1 to 15 of a-z, 0-9 and _, and begins with a letter")
        if not isinstance(settings, dict):
            self._fail(f"{where} has to be a table")
        self._check(settings, where, {"guest": str, "bluetooth": int, "wifi": int, "ethernet": list})
        segments = settings.get("ethernet", [])
        for segment in segments:
            if not isinstance(segment, str) or not NAME.match(segment):
                self._fail(f"{where}: {segment!r} is no name of a segment")
        if len(set(segments)) < len(segments):
            self._fail(f"{where} is twice on a segment")
        for kind in ("bluetooth", "wifi"):
            if not 0 <= settings.get(kind, 0) <= MAX_RADIOS:
                self._fail(f"{where}: `{kind}` is a number of radios, 0 to {MAX_RADIOS}")
        guest = settings.get("guest", "main")
        if not NAME.match(guest):
            self._fail(f"{where}: {guest!r} is no name of a guest")
        return Machine(
            name=name,
            guest=guest,
            bluetooth=settings.get("bluetooth", 0),
            wifi=settings.get("wifi", 0),
            ethernet=tuple(segments),
        )

    def _guests(self, settings):
        guests = {}
        for machine in self._machines.values():
            guests.setdefault(machine.guest, []).append(machine)
        for name in settings:
            if name not in guests:
                self._fail(f"there is no machine in guest {name!r}")
            self._check(settings[name], f"guest {name!r}", {"memory_mib": int})
        for name, machines in guests.items():
            bluetooth = [machine.name for machine in machines if machine.bluetooth]
            if len(bluetooth) > 1:
                self._fail(
                    f"{' and '.join(bluetooth)} have Bluetooth and share guest {name!r}; "
                    "Linux has it once in a kernel, so put each into a guest of its own"
                )
        with_wifi = {machine.guest for machine in self._machines.values() if machine.wifi}
        if len(with_wifi) > 1:
            self._fail(f"Wi-Fi reaches no further than one guest; it is in {' and '.join(sorted(with_wifi))}")
        for segment in {segment for machine in self._machines.values() for segment in machine.ethernet}:
            where = {machine.guest for machine in self._machines.values() if segment in machine.ethernet}
            if len(where) > 1:
                self._fail(
                    f"segment {segment!r} reaches no further than one guest; it is in {' and '.join(sorted(where))}"
                )
        return {name: settings.get(name, {}).get("memory_mib", DEFAULT_MEMORY_MIB) for name in guests}

    def _step(self, where, name, settings):
        self._check(settings, where, {"name": str, "bluetooth": dict, "wifi": dict, "plug": list, "unplug": list})
        wifi = self._air(where, settings, "wifi")
        if wifi is not None and wifi.hears is not None and len(wifi.hears) > MAX_WIFI_PAIRS:
            self._fail(f"{where}: {len(wifi.hears)} pairs hear each other on Wi-Fi, and at most {MAX_WIFI_PAIRS} can")
        return Step(
            name=name,
            bluetooth=self._air(where, settings, "bluetooth"),
            wifi=wifi,
            plug=self._cables(where, settings, "plug"),
            unplug=self._cables(where, settings, "unplug"),
        )

    def _air(self, where, settings, key):
        if key not in settings:
            return None
        air = settings[key]
        where = f"{where}, {key}"
        number = (int, float)
        self._check(air, where, {"hears": (list, str), "loss": number, "latency_s": number, "bytes_per_s": number})
        if not 0 <= air.get("loss", 0) < 1:
            self._fail(f"{where}: `loss` is a share, 0 to less than 1")
        if air.get("latency_s", 0) < 0 or air.get("bytes_per_s", 1) <= 0:
            self._fail(f"{where}: `latency_s` is 0 or more, and `bytes_per_s` more than 0")
        return Conditions(
            hears=self._pairs(where, air["hears"], key) if "hears" in air else None,
            loss=air.get("loss"),
            latency_s=air.get("latency_s"),
            bytes_per_s=air.get("bytes_per_s"),
        )

    def _pairs(self, where, hears, key):
        owners = sorted(machine.name for machine in self._machines.values() if getattr(machine, key))
        if hears == "all":
            return frozenset(itertools.combinations(owners, 2))
        if not isinstance(hears, list):
            self._fail(f'{where}: `hears` is "all", or a list of pairs')
        pairs = set()
        for pair in hears:
            if not isinstance(pair, list) or len(pair) != 2 or pair[0] == pair[1]:
                self._fail(f"{where}: {pair!r} is no pair of machines")
            for name in pair:
                if name not in owners:
                    self._fail(f"{where}: {name!r} has no {key}; those that have: {', '.join(owners) or 'none'}")
            pairs.add(tuple(sorted(pair)))
        return frozenset(pairs)

    def _cables(self, where, settings, key):
        cables = settings.get(key, [])
        for cable in cables:
            if not isinstance(cable, list) or len(cable) != 2 or cable[0] not in self._machines:
                self._fail(f"{where}: {key} has [machine, segment], not {cable!r}")
            if cable[1] not in self._machines[cable[0]].ethernet:
                self._fail(f"{where}: {cable[0]} has no Ethernet on {cable[1]!r}")
        return tuple(tuple(cable) for cable in cables)

    def _check(self, table, where, kinds):
        if unknown := sorted(set(table) - set(kinds)):
            self._fail(f"{where}: unknown {unknown[0]!r}; there are: {', '.join(kinds)}")
        for key, value in table.items():
            if not isinstance(value, kinds[key]) or isinstance(value, bool):
                self._fail(f"{where}: {key!r} is of the wrong type")

    def _fail(self, what):
        raise SceneError(f"scene {self._name}: {what}")
