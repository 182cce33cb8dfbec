# SPDX-License-Identifier: GPL-2.0-or-later
import json
import logging
import os
import pwd
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from relay import __version__
from relay.cli import main
from relay.cli.operator import UsageError, parse_time
from relay.config import paths
from relay.config.file import EXAMPLE, ConfigError, load_config, parse_config
from relay.control.control_client import ControlClient
from relay.control.relay_report import REPORT, report_text
from relay.control.status import LinkState, LinkStatus, NoticeStatus, Status, StoreStatus, TaskStatus, read_status
from relay.control.text import human_bytes, human_duration, startup_summary, status_text
from relay.process.logs import PrivateFormatter, setup
from relay.process.ports import holders
from tests.programs.running import not_root
from tests.waiting import wait_until


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    for name in ("XDG_STATE_HOME", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "STATE_DIRECTORY", "RUNTIME_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_the_version_comes_at_once():
    code = (
        "import sys; from relay.cli import main; status = main(['--version'])\n"
        "heavy = {'aiohttp', 'nacl', 'prometheus_client', 'zeroconf', 'numpy', 'sqlite3'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else status)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=30)
    assert (found.returncode, found.stdout, found.stderr) == (0, f"relay {__version__}\n", "")


def test_the_example_is_printed_and_passes_its_own_check(tmp_path, capsys):
    assert main(["check-config", "--example"]) == 0
    text = capsys.readouterr().out
    assert text == EXAMPLE.read_text()
    path = tmp_path / "relay.toml"
    path.write_text(text)
    assert main(["check-config", "--config", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}: no problem found\n"


def test_a_space_that_is_none_is_named(tmp_path, capsys):
    path = tmp_path / "relay.toml"
    path.write_text("[store]\nmax_bytes\u00a0= 5000000000\n")
    assert main(["check-config", "--config", str(path)]) == 78
    assert "relay.toml:2: " in (said := capsys.readouterr().err)
    assert "character 10 is no plain space but U+00A0 (no-break space): type the line anew" in said


def test_a_port_that_another_has_is_told_with_a_remedy(tmp_path):
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as other:
        port = other.getsockname()[1]
        path = tmp_path / "relay.toml"
        path.write_text(
            f'[store]\npath = "{tmp_path}/store"\n[tcp]\nport = {port}\ndiscovery = false\ninterfaces = ["lo"]\n'
            f'[unix]\nenabled = false\n[http]\nenabled = false\n[control]\npath = "{tmp_path}/control"\n'
        )
        command = [sys.executable, "-m", "relay", "run", "--config", str(path)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            alarm = threading.Timer(30, process.kill)
            alarm.start()
            said = process.stderr.readline()
            with ControlClient(tmp_path / "control") as client:
                status = client.read_status()
                other.close()
                wait_until("it is well once the port is free", lambda: client.read_status().ready, 20)
                after = client.read_status()
            process.terminate()
            alarm.cancel()
    name = Path("/proc/self/comm").read_text().strip()
    fault = (
        f"cannot listen on port {port}: Address already in use by {name} (process {os.getpid()}); "
        "stop what has it, or set another port in [tcp]"
    )
    assert fault in said
    assert f"a link is down: tcp on all: {fault}" in status.problems()
    # Of all interfaces together there is a row only while they do not work.
    assert [(link.kind, link.interface, link.state) for link in after.links] == [("tcp", "lo", "listening")]
    assert after.problems() == []


def test_of_a_program_that_may_not_be_looked_into_the_user_is_told():
    # Of itself a process is not told, but of its socket the kernel says whose it is, as of those it may not look into.
    user = f"a program of {pwd.getpwuid(os.geteuid()).pw_name}"
    with socket.create_server(("127.0.0.1", 0)) as other, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        assert holders(port, "tcp") == holders(datagrams.getsockname()[1], "udp") == user
    assert holders(port, "tcp") == ""


def test_a_mistake_is_told_by_file_line_and_remedy(tmp_path, capsys):
    path = tmp_path / "relay.toml"
    path.write_text("[tcp]\n\nprot = 1\n[log]\nlevel = 'debug'\n")
    assert main(["check-config", "--config", str(path)]) == 78
    assert capsys.readouterr().err.splitlines() == [
        f"{path}:3: unknown setting prot in [tcp]; did you mean port?",
        f'{path}:5: log.level is "debug"; write "warning" or "info"',
    ]


def test_without_a_configuration_the_check_says_so(capsys):
    assert main(["check-config"]) == 0
    assert "every setting has its default" in capsys.readouterr().out


def test_status_for_people(control, capsys):
    assert main(["status", "--socket", str(control)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "relay      0.1.0, up 1 d 2 h"
    assert lines[1] == "health     all well"
    assert "1234 envelopes of 100,000, 4.8 MiB of 1.0 GiB (1% full, durable, price 3 bits, oldest 2 h" in lines[2]
    assert "link       tcp on eth0: 2 relays, 7 clients; 1.0 MiB in, 4.0 KiB out" in lines
    assert "rejected   7 underpaid" in lines


def test_status_for_machines(engine, control, capsys):
    assert main(["status", "--json", "--socket", str(control)]) == 0
    assert json.loads(capsys.readouterr().out) == engine.status().as_dict()


def test_a_report_is_read_by_people_and_by_promtool(control, tmp_path, capsys):
    notice = "first\n# TYPE relay_ready counter\nrelay_ready 7"
    assert main(["report", "--socket", str(control), "-"]) == 0
    report = capsys.readouterr().out
    assert "# | store " in report
    found = {family.name: family for family in text_string_to_metric_families(report)}
    assert found["relay_store_bytes"].samples
    # A stick is a folder; the file is written there.
    assert main(["report", "--socket", str(control), str(tmp_path)]) == 0
    assert "promtool" in capsys.readouterr().out
    written = (tmp_path / REPORT).read_text()
    assert written.startswith("# | Report of a mesh relay")
    assert main(["report", "--socket", str(control), str(tmp_path / "none" / "x")]) == 1
    assert "name another file" in capsys.readouterr().err
    # What waits for a reader, or leads elsewhere, is not written to: not where a folder was named either.
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "stick").mkdir()
    (tmp_path / "stick" / REPORT).symlink_to(tmp_path / REPORT)
    for place in ("pipe", "stick", f"stick/{REPORT}"):
        assert main(["report", "--socket", str(control), str(tmp_path / place)]) == 1
        assert "a link, a device or a pipe; name another file" in capsys.readouterr().err
    assert (tmp_path / REPORT).read_text() == written
    # What a notice says cannot become a metric.
    status = Status(version="1", notices=[NoticeStatus(code="hint", text=notice)])
    lines = report_text(status, "relay_ready 1\n").splitlines()
    assert [line for line in lines if not line.startswith("# |")] == ["relay_ready 1"]
    if promtool := shutil.which("promtool"):
        checked = subprocess.run(
            [promtool, "check", "metrics"], check=False, input=written, text=True, capture_output=True, timeout=60
        )
        assert checked.returncode in {0, 3}, checked.stderr
        assert "error while" not in checked.stderr


@pytest.mark.parametrize("address", ["relay.example", "127.0.0.1", "localhost:9471"])
def test_where_targets_cannot_be_served_its_own_port_is_named(address, capsys):
    with pytest.raises(SystemExit):
        main(["targets", "--serve", address])
    said = capsys.readouterr().err
    assert ":9471" in said
    assert "9470" not in said


def test_watching_goes_on_until_interrupted(control):
    code = "import sys; from relay.cli import main; sys.exit(main())"
    arguments = ["status", "--watch", "--json", "--socket", str(control)]
    with subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True) as watch:
        first, second = watch.stdout.readline(), watch.stdout.readline()
        watch.send_signal(2)
        assert watch.wait(10) == 130
    assert json.loads(first)["schema"] == json.loads(second)["schema"] == 1


def test_the_status_of_a_newer_relay_is_readable_as_long_as_the_schema_is(engine):
    values = engine.status().as_dict()
    values["new"] = 1
    values["store"]["new"] = 1
    values["queues"].append({"name": "new", "length": 1, "capacity": 1})
    assert read_status(json.loads(json.dumps(values))) == engine.status()
    with pytest.raises(ValueError, match="schema"):
        read_status(values | {"schema": 2})
    with pytest.raises(ValueError, match="missing"):
        read_status({"schema": 1})


def test_what_is_wrong_is_told_in_words(engine):
    engine.changes = {
        "ready": False,
        "store": StoreStatus(writable=False),
        "links": [LinkStatus(kind="tcp", interface="eth0", state=LinkState.DOWN)],
        "tasks": [TaskStatus(name="store", idle_s=99.0, stalled=True)],
    }
    text = status_text(engine.status())
    assert "health     the store cannot be written" in text
    assert "           still starting" in text
    assert "a part of the relay makes no progress: store" in text
    assert "tcp on eth0: down" in text


def test_no_relay_is_told_with_a_remedy(capsys):
    assert main(["status"]) == 1
    assert "start one with `relay run`" in capsys.readouterr().err


def test_the_configured_control_socket_is_used(control, tmp_path, capsys):
    path = tmp_path / "relay.toml"
    path.write_text(f"[control]\npath = '{control}'\n")
    assert main(["status", "--config", str(path)]) == 0
    assert "all well" in capsys.readouterr().out


def test_who_runs_no_relay_is_told_of_the_systems(control, monkeypatch, capsys):
    monkeypatch.setattr(paths, "SYSTEM_RUNTIME", control.parent)
    assert main(["status"]) == 0
    assert "all well" in capsys.readouterr().out


def test_a_configuration_that_only_root_may_read_is_no_reason_to_ask_nobody(tmp_path, monkeypatch, capsys):
    config = tmp_path / "etc" / "relay.toml"
    config.parent.mkdir(mode=0)
    monkeypatch.setattr(paths, "SYSTEM_CONFIG", config)
    monkeypatch.setattr(paths, "SYSTEM_RUNTIME", tmp_path / "etc")
    monkeypatch.setenv("HOME", "/nonexistent")
    with not_root():
        assert paths.find_config(os.environ) == config
        with pytest.raises(ConfigError, match="Permission denied"):
            load_config(None)
        assert main(["status"]) == 1
    config.parent.chmod(0o700)
    told = capsys.readouterr().err
    assert f"no relay answers at {paths.runtime_directory(os.environ)}/control.sock, and {config.parent}" in told
    assert "is not yours to open; use sudo" in told


def test_the_operator_gives_the_time(engine, control, capsys):
    assert main(["clock", "set", "2026-05-01T12:00Z", "--socket", str(control)]) == 0
    assert engine.clock.hour == 1777636800 // 3600
    assert capsys.readouterr().out == "the relay goes by 2026-05-01 12:00:00 UTC\n"


def test_a_time_the_relay_refuses_fails(control, capsys):
    assert main(["clock", "set", "@5", "--socket", str(control)]) == 1
    assert "before this relay was built" in capsys.readouterr().err


def test_times_are_understood_and_guesses_are_not():
    assert parse_time("@1700000000") == 1_700_000_000
    assert parse_time("2026-05-01T14:00+02:00") == parse_time("2026-05-01T12:00Z")
    assert abs(parse_time("now") - time.time()) < 5
    for text in ("tomorrow", "2026-05-01T12:00", "1700000000000000", "@-1", ""):
        with pytest.raises(UsageError, match=r"write|has no zone"):
            parse_time(text)


def test_a_fresh_relay_says_where_it_is_and_how_to_send_a_first_message(engine, tmp_path):
    config = parse_config(b"[tcp]\npeers = ['192.0.2.1']\n", tmp_path / "relay.toml", {"HOME": "/home/user"})
    text = startup_summary(engine.status(), config, program=".venv/bin/relay", port=4270)
    assert "port 4270 on every interface" in text
    assert "http://127.0.0.1:9470/" in text
    assert "192.0.2.1" not in text
    commands = re.findall(r"^  \.venv/bin/relay (\w+)", text, re.MULTILINE)
    assert commands == ["identity", "contact", "send", "receive"]


def test_sizes_and_times_read_well():
    assert [human_bytes(count) for count in (0, 1023, 1536, 200 * 1024, 1 << 40)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "200 KiB",
        "1024.0 GiB",
    ]
    assert [human_duration(time_s) for time_s in (0.9, 61, 3600, 90_000)] == [
        "0 s",
        "1 min 1 s",
        "1 h 0 min",
        "1 d 1 h",
    ]


@pytest.fixture
def restored_logging():
    root = logging.getLogger()
    before = root.handlers[:], root.level, logging.getLogger("relay").level
    hooks = sys.excepthook, threading.excepthook, logging.raiseExceptions
    yield
    sys.excepthook, threading.excepthook, logging.raiseExceptions = hooks
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    logging.getLogger("relay").setLevel(before[2])


def fail(text):
    try:
        Path(text).read_bytes()
    except OSError as cause:
        raise ValueError(text) from cause


@pytest.mark.usefixtures("restored_logging")
def test_the_log_has_our_words_and_nobody_elses(capsys, monkeypatch):
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    setup("info")
    marker = "2001:db8::77"
    logging.getLogger("relay.run.app").info("ready")
    logging.getLogger("relay.run.app").warning("link restarted")
    logging.getLogger("relay.run.app").debug(marker)
    logging.getLogger("zeroconf").warning(marker)
    logging.getLogger("asyncio").error("socket %s", marker)
    try:
        fail(marker)
    except ValueError:
        logging.getLogger("relay.run.app").exception("a link failed")
    text = capsys.readouterr().err
    assert marker not in text
    lines = [line.partition(" ")[2] for line in text.splitlines()]
    assert lines[:4] == ["ready", "WARNING: link restarted", "ERROR: asyncio reported an error", "ERROR: a link failed"]
    assert "ValueError at test_operator.py:" in text
    assert "from FileNotFoundError at test_operator.py:" in text


def test_what_nobody_caught_is_told_without_its_text():
    code = (
        "import threading\nfrom relay.process.logs import setup\nsetup('warning')\n"
        "def fail(): raise ExceptionGroup('marker', [OSError('marker')])\n"
        "thread = threading.Thread(target=fail)\nthread.start()\nthread.join()\nfail()"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=30)
    assert found.returncode == 1
    assert "marker" not in found.stderr
    assert found.stderr.count("ExceptionGroup at ") == 2
    assert found.stderr.count("from OSError at ") == 2


@pytest.mark.usefixtures("restored_logging")
def test_under_the_journal_lines_carry_a_priority_and_no_time(capsys, monkeypatch):
    monkeypatch.setenv("JOURNAL_STREAM", "8:1")
    setup("warning")
    logging.getLogger("relay").info("quiet")
    logging.getLogger("relay").warning("link restarted")
    assert capsys.readouterr().err == "<4>link restarted\n"


def test_a_loop_of_causes_ends():
    error = ValueError()
    error.__context__ = OSError()
    error.__context__.__context__ = error
    result = []
    thread = threading.Thread(
        target=lambda: result.append(PrivateFormatter(journal=True).formatException((ValueError, error, None))),
        daemon=True,
    )
    thread.start()
    thread.join(5)
    assert result
