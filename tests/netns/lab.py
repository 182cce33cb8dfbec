# SPDX-License-Identifier: GPL-2.0-or-later
"""Machines and Ethernet segments out of network namespaces, veth pairs and bridges: a real kernel, no mocks.

A `Box` is a machine with a namespace of its own, a `Segment` an Ethernet switch, a
`Port` the cable between them. The switches live in one more namespace, so that a
cable can be cut where neither end notices.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.netns.rawclient import RawClient
from tests.netns.relays import PORT, Relay
from tests.waiting import wait_until

PROJECT = Path(__file__).parents[2]
_CLONE_NEWNET = 0x40000000
_COMMAND_TIMEOUT_S = 20


class LabError(AssertionError):
    """The lab could not do what the test asked of it."""


def command(*arguments):
    """Run a command of the system and return its output; its error output is part of the failure."""
    found = subprocess.run(arguments, capture_output=True, text=True, timeout=_COMMAND_TIMEOUT_S, check=False)
    if found.returncode:
        raise LabError(f"{' '.join(arguments)}: {found.stderr or found.stdout}")
    return found.stdout


def _setns(fd):
    libc = ctypes.CDLL(None, use_errno=True)  # os.setns is of Python 3.12
    if libc.setns(fd, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


class Lab:
    """`with Lab() as lab`: ends with no namespace and no process left."""

    def __init__(self):
        self._prefix = f"lab{os.getpid()}"
        self._boxes = {}
        self._segments = 0
        self._ports = 0

    def __enter__(self):
        if os.geteuid():
            raise LabError("network namespaces need root; `make netns` provides it")
        # Short: a socket's path has 108 bytes, and pytest's own folders nearly as many.
        self.folder = Path(tempfile.mkdtemp(prefix="lab"))
        self.switch = f"{self._prefix}-switch"
        command("ip", "netns", "add", self.switch)
        self.in_namespace(self.switch, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
        self.in_namespace(self.switch, "sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
        return self

    def __exit__(self, *_):
        for box in list(self._boxes.values()):
            box.remove()
        command("ip", "netns", "delete", self.switch)
        shutil.rmtree(self.folder)

    @staticmethod
    def in_namespace(namespace, *arguments):
        return command("ip", "netns", "exec", namespace, *arguments)

    def box(self, name, *segments, **options):
        """Add a machine, plugged into ``segments`` as eth0, eth1, ...; options as of `Box`."""
        box = self._boxes[name] = Box(self, name, f"{self._prefix}-{name}", **options)
        for number, segment in enumerate(segments):
            box.plug(segment, f"eth{number}")
        return box

    def forget(self, box):
        del self._boxes[box.name]

    def segment(self):
        """Add an Ethernet segment."""
        name = f"br{self._segments}"
        self._segments += 1
        command("ip", "-n", self.switch, "link", "add", name, "type", "bridge", "mcast_snooping", "0",
                "forward_delay", "0")  # fmt: skip
        command("ip", "-n", self.switch, "link", "set", name, "up")
        return Segment(self, name)

    def new_port_name(self):
        self._ports += 1
        return f"p{self._ports}"


class Segment:
    """An Ethernet switch; `subnet` numbers the addresses that boxes get on it."""

    def __init__(self, lab, name):
        self.lab = lab
        self.name = name
        self.subnet = int(name[2:]) + 1
        self._hosts = 0

    def next_host(self):
        self._hosts += 1
        return self._hosts


class Port:
    """A machine's end of a cable into a segment."""

    def __init__(self, box, segment, interface):
        self.box = box
        self.segment = segment
        self.interface = interface
        self.far = segment.lab.new_port_name()
        command("ip", "-n", box.namespace, "link", "add", interface, "type", "veth",
                "peer", "name", self.far, "netns", segment.lab.switch)  # fmt: skip
        self.ipv4 = ""
        if box.has_ipv4:
            self.ipv4 = f"10.0.{segment.subnet}.{segment.next_host()}"
            command("ip", "-n", box.namespace, "address", "add", f"{self.ipv4}/24", "dev", interface)
        self._far("up", "master", segment.name)
        self.set("up")

    def _far(self, *what):
        command("ip", "-n", self.segment.lab.switch, "link", "set", self.far, *what)

    def set(self, *what):
        """`ip link set` on this interface."""
        command("ip", "-n", self.box.namespace, "link", "set", self.interface, *what)

    def cut(self):
        """Let nothing through any more; nobody is told (a switch further away lost its power)."""
        self._far("nomaster")

    def heal(self):
        """Undo `cut`."""
        self._far("master", self.segment.name)

    def unplug(self):
        """Pull the cable: the machine sees its carrier go."""
        self._far("down")

    def replug(self):
        """Undo `unplug`."""
        self._far("up")

    def delete(self):
        """Remove the interface, as when a USB adapter is pulled."""
        command("ip", "-n", self.box.namespace, "link", "delete", self.interface)

    def address(self, change, address):
        """Add or delete an IP address with its prefix length."""
        command("ip", "-n", self.box.namespace, "address", change, address, "dev", self.interface)

    def link_local(self):
        """The usable IPv6 link-local address; waits for duplicate address detection."""

        def find():
            (link,) = json.loads(command("ip", "-j", "-n", self.box.namespace, "address", "show", self.interface))
            for info in link["addr_info"]:
                if info.get("scope") == "link" and info["family"] == "inet6" and not info.get("tentative"):
                    return info["local"]
            return ""

        return wait_until(f"{self.interface} of {self.box.name} has no link-local address", find, 10)

    def bytes(self):
        """Bytes of Ethernet frames that crossed this cable so far, both ways."""
        (link,) = json.loads(command("ip", "-j", "-s", "-n", self.box.namespace, "link", "show", self.interface))
        return link["stats64"]["rx"]["bytes"] + link["stats64"]["tx"]["bytes"]


class Box:
    """A machine: a network namespace and what runs in it."""

    def __init__(self, lab, name, namespace, *, has_ipv4=True, detects_duplicates=False):
        """``detects_duplicates``: as kernels do by default, at the price of 1 to 2 s for each IPv6 address."""
        self.lab = lab
        self.name = name
        self.namespace = namespace
        self.folder = lab.folder / name
        self.folder.mkdir()
        self.has_ipv4 = has_ipv4
        self.ports = {}
        self._relays = []
        self._processes = []
        self._clients = contextlib.ExitStack()
        command("ip", "netns", "add", namespace)
        if not detects_duplicates:
            for scope in ("all", "default"):
                self.run("sysctl", "-qw", f"net.ipv6.conf.{scope}.accept_dad=0")
        command("ip", "-n", namespace, "link", "set", "lo", "up")

    def __repr__(self):
        return f"<{self.name}>"

    def plug(self, segment, interface):
        """Connect to a segment and return the port."""
        port = self.ports[interface] = Port(self, segment, interface)
        return port

    def run(self, *arguments):
        """Run a command of the system here and return its output."""
        return Lab.in_namespace(self.namespace, *arguments)

    def start(self, *arguments, **options):
        """Start a process here; `ip netns exec` becomes it, so its pid is the process's own."""
        process = subprocess.Popen(["ip", "netns", "exec", self.namespace, *arguments], **options)
        self._processes.append(process)
        return process

    def python(self, *arguments, environ=None, **options):
        """Start Python with the project's packages here, in an environment of the box's own, and ``environ``."""
        environment = {
            "HOME": str(self.folder),
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(PROJECT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "LANG": "C.UTF-8",
            **(environ or {}),
        }
        return self.start(sys.executable, *arguments, cwd=self.folder, env=environment, **options)

    def start_cli(self, *arguments):
        """Start a `relay` command here; hand it to `finish_cli`."""
        pipe = subprocess.PIPE
        return self.python("-m", "relay", *arguments, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe)

    @staticmethod
    def finish_cli(process, timeout_s=60):
        """Return the standard output of a `relay` command as text; fail when it does, or takes too long."""
        name = " ".join(process.args[process.args.index("relay") :][:2])
        try:
            out, err = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise LabError(f"`{name}` took over {timeout_s} s\n{out[-500:]}\n{err[-2000:]}") from None
        if process.returncode:
            raise LabError(f"`{name}` exited {process.returncode}\n{out[-500:]}\n{err[-2000:]}")
        return out.decode()

    def cli(self, *arguments, timeout_s=60):
        """Run a `relay` command here and return its standard output as text."""
        began = time.monotonic()
        out = self.finish_cli(self.start_cli(*arguments), timeout_s)
        print(f"{self.name}: relay {arguments[0]} took {time.monotonic() - began:.1f} s")
        return out

    def relay(self, name="relay", *, start=True, **sections):
        """Start a relay with these sections of relay.toml, and wait until it is ready."""
        relay = Relay(self, name, sections)
        self._relays.append(relay)
        if start:
            relay.start()
        return relay

    def socket(self, family=socket.AF_INET6, kind=socket.SOCK_STREAM):
        """Return a socket of this machine, usable from anywhere."""
        own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(f"/run/netns/{self.namespace}", os.O_RDONLY)
        try:
            _setns(there)
            try:
                return socket.socket(family, kind)
            finally:
                _setns(own)
        finally:
            os.close(own)
            os.close(there)

    def connect(self, host, port=PORT, *, timeout_s=5.0, interface=""):
        """Return a connected TCP socket; ``interface`` is the scope of a link-local ``host``."""
        sock = self.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        sock.settimeout(timeout_s)
        try:
            if interface:
                # The scope's index is one of that namespace.
                (link,) = json.loads(command("ip", "-j", "-n", self.namespace, "link", "show", interface))
                sock.connect((host, port, 0, link["ifindex"]))
            else:
                sock.connect((host, port))
        except OSError:
            sock.close()
            raise
        return sock

    def client(self, host="::1", port=PORT, **options):
        """Return a raw client connected from here, closed with the box."""
        options.setdefault("interface", "")
        sock = self.connect(host, port, interface=options.pop("interface"))
        return self._clients.enter_context(RawClient(sock, **options))

    def remove(self):
        """Switch the machine off and carry it away."""
        self._clients.close()
        for relay in self._relays:
            relay.remove()
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait(10)
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
        command("ip", "netns", "delete", self.namespace)
        self.lab.forget(self)
