# SPDX-License-Identifier: GPL-2.0-or-later
"""Prometheus and Alertmanager as an operator runs them, in a box, with docs/prometheus and its minutes made seconds."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import subprocess
import threading
import time
import urllib.parse

from tests.netns.lab import PROJECT
from tests.waiting import wait_until

DOCUMENTS = PROJECT / "docs" / "prometheus"
#: `relay targets --serve`, Prometheus and Alertmanager, where prometheus.yml looks for them.
TARGETS, PROMETHEUS, ALERTMANAGER = 9471, 9090, 9093


def hurried(text):
    """The same rules or configuration, with a second for each minute and for each half of one."""
    return re.sub(r"\b(\d+)m\b", r"\1s", re.sub(r"\b[36]0s\b", "1s", text))


class Watcher:
    """The operator's machine; it is on the networks of the relays."""

    def __init__(self, box, static=()):
        """``static``: relays that are not found, as (address with port, label)."""
        self.box = box
        self.folder = box.folder / "watch"
        self.folder.mkdir()
        for name in ("rules.yml", "prometheus.yml", "alertmanager.yml"):
            text = hurried((DOCUMENTS / name).read_text())
            if name == "prometheus.yml":
                rows = [{"targets": [where], "labels": {"__meta_relay_label": label}} for where, label in static]
                # JSON is YAML; this stands where the example has it as a remark.
                text = text.replace(
                    "    relabel_configs:", f"    static_configs: {json.dumps(rows)}\n    relabel_configs:"
                )
            (self.folder / name).write_text(text)
        self._start("targets", box.python, "-m", "relay", "targets", "--serve")
        self._start("alertmanager", box.start, shutil.which("prometheus-alertmanager"), "--cluster.listen-address=",
                    f"--config.file={self.folder}/alertmanager.yml", f"--storage.path={self.folder}/alerts",
                    f"--web.listen-address=127.0.0.1:{ALERTMANAGER}")  # fmt: skip
        self._start("prometheus", box.start, shutil.which("prometheus"), f"--storage.tsdb.path={self.folder}/series",
                    f"--config.file={self.folder}/prometheus.yml",
                    f"--web.listen-address=127.0.0.1:{PROMETHEUS}")  # fmt: skip
        self.began_s = time.time()
        self._starts = {}
        #: All alerts that Alertmanager had at any time: some are over while the test does something else.
        self.seen = set()
        self._ended = threading.Event()
        self._looking = threading.Thread(target=self._look, daemon=True)
        self._looking.start()

    def end(self):
        """Look no more; the programs end with the box."""
        self._ended.set()
        self._looking.join(30)

    def _look(self):
        while not self._ended.wait(0.3):
            self.seen |= self.alerts()

    def _start(self, name, start, *arguments):
        with (self.folder / f"{name}.log").open("wb") as log:
            start(*arguments, stdout=log, stderr=subprocess.STDOUT)

    def log(self, name):
        """What one of the three printed."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def get(self, port, path, **parameters):
        """The JSON behind a GET; None while nobody answers, or not yet with 200."""
        connection = http.client.HTTPConnection("127.0.0.1", port)
        try:
            connection.sock = self.box.connect("127.0.0.1", port)
            connection.request("GET", f"{path}?{urllib.parse.urlencode(parameters)}")
            response = connection.getresponse()
            text = response.read()
        except OSError:
            return None
        finally:
            connection.close()
        assert response.status in {200, 503}, (path, parameters, text)
        return json.loads(text) if response.status == 200 else None

    def query(self, expression):
        """The result of an instant query."""
        return (self.get(PROMETHEUS, "/api/v1/query", query=expression) or {"data": {"result": []}})["data"]["result"]

    def query_range(self, expression, step_s=1):
        """The result of a query over all that was recorded."""
        found = self.get(PROMETHEUS, "/api/v1/query_range", query=expression, start=self.began_s, end=time.time(),
                         step=step_s)  # fmt: skip
        return found["data"]["result"]

    def listed(self):
        """What `relay targets` serves: labels by address."""
        rows = self.get(TARGETS, "/") or []
        return {row["targets"][0]: row["labels"].get("__meta_relay_label", "") for row in rows}

    def up(self):
        """The names of relays that Prometheus reads."""
        return {row["metric"]["instance"] for row in self.query('up{job="mesh-relay"} == 1')}

    def wait_read_anew(self, name, timeout_s=20):
        """Wait until a relay was read since it started last."""
        began = None
        before = self._starts.get(name)

        def look():
            nonlocal began
            rows = self.query(f'process_start_time_seconds{{instance="{name}"}} and up{{instance="{name}"}} == 1')
            began = rows[0]["value"][1] if rows else None
            return began not in (None, before)

        wait_until(f"{name} is read after its start", look, timeout_s)
        self._starts[name] = began

    def alerts(self):
        """Those that Alertmanager has, as (name, relay)."""
        rows = self.get(ALERTMANAGER, "/api/v2/alerts") or []
        return {(row["labels"]["alertname"], row["labels"]["instance"]) for row in rows}

    def wait_fires(self, expected, timeout_s):
        """Wait until each has been with Alertmanager at least once since the start."""
        wait_until(
            lambda: f"these fire: {expected - self.seen}\n{self._describe()}",
            lambda: expected <= self.seen,
            timeout_s,
            pause_s=0.3,
        )

    def wait_silent(self, timeout_s):
        """Wait until no alert is left."""
        wait_until(
            lambda: f"these are over: {self.alerts()}\n{self._describe()}",
            lambda: not self.alerts(),
            timeout_s,
            pause_s=0.3,
        )

    def _describe(self):
        """What the three have to say, for a failure."""
        alerts = [row["metric"] for row in self.query("ALERTS")]
        logs = "".join(f"\n{name}: {self.log(name)[-1500:]}" for name in ("targets", "prometheus", "alertmanager"))
        return f"Alertmanager has {sorted(self.alerts())}, Prometheus {alerts}{logs}"
