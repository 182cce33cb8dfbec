# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs commands inside a guest for guest.py: ``agent.py DEVICE``, a serial line with JSON on each line of text.

From the host: ``{"start": id, "argv": [..], "env": {..}, "cwd": ".."}`` begins a command in a session of its own,
with no input; ``{"signal": id, "number": n}`` goes to its whole process group; ``{"quit": 1}``.
``{"ask": id, "path": "..", "line": ".."}`` writes a line to a Unix socket, and its answer is a line of output: for
what is asked again and again, a process each time would be most of a guest's work.

To the host: ``{"ready": 1}`` once, then for each command ``{"id": id, "pid": pid}``, any number of
``{"id": id, "out" or "err": base64}``, and last ``{"id": id, "exit": code}``, with minus the signal that ended it, and
127 with a text in "err" if there is no such program.
"""

import base64
import contextlib
import json
import os
import selectors
import socket
import subprocess
import sys
import tty

#: One read of a command's output; base64 makes a third more of it, and the line has to hold that.
READ_BYTES = 24_576


class Agent:
    def __init__(self, line_fd):
        self._line_fd = line_fd
        self._selector = selectors.DefaultSelector()
        self._selector.register(line_fd, selectors.EVENT_READ, self._commands)
        self._received = b""
        self._running = {}
        self._done = False

    def run(self):
        self._tell(ready=1)
        while not self._done:
            for key, _ in self._selector.select():
                # A command that ended took its streams out of the set meanwhile.
                if key.fd in self._selector.get_map():
                    key.data()

    def _tell(self, **message):
        data = json.dumps(message).encode() + b"\n"
        while data:
            data = data[os.write(self._line_fd, data) :]

    def _commands(self):
        self._received += os.read(self._line_fd, 65536)
        *lines, self._received = self._received.split(b"\n")
        for line in lines:
            command = json.loads(line)
            if "start" in command:
                self._start(command["start"], command["argv"], command["env"], command["cwd"])
            elif "signal" in command:
                self._signal(command["signal"], command["number"])
            elif "ask" in command:
                self._ask(command["ask"], command["path"], command["line"])
            else:
                self._done = True

    def _start(self, ident, argv, env, cwd):
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=env,
                cwd=cwd,
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            self._fail(ident, error, 127)
            return
        self._running[ident] = process
        self._tell(id=ident, pid=process.pid)
        for name, pipe in (("out", process.stdout), ("err", process.stderr)):
            os.set_blocking(pipe.fileno(), False)
            self._selector.register(
                pipe, selectors.EVENT_READ, lambda name=name, pipe=pipe: self._pass(ident, name, pipe)
            )
        pidfd = os.pidfd_open(process.pid)
        self._selector.register(pidfd, selectors.EVENT_READ, lambda: self._ended(ident, pidfd))

    def _fail(self, ident, error, code):
        self._tell(id=ident, err=base64.b64encode(f"{error}\n".encode()).decode())
        self._tell(id=ident, exit=code)

    def _ask(self, ident, path, line):
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(path)
            sock.sendall(line.encode() + b"\n")
        except OSError as error:
            sock.close()
            self._fail(ident, error, 1)
            return
        self._selector.register(sock, selectors.EVENT_READ, lambda: self._answer(ident, sock))

    def _answer(self, ident, sock):
        try:
            data = sock.recv(READ_BYTES)
        except OSError:
            data = b""
        if data:
            self._tell(id=ident, out=base64.b64encode(data).decode())
        if not data or data.endswith(b"\n"):
            self._selector.unregister(sock)
            sock.close()
            self._tell(id=ident, exit=0 if data else 1)

    def _pass(self, ident, name, pipe):
        """Pass on what is there; return whether there may be more."""
        try:
            data = os.read(pipe.fileno(), READ_BYTES)
        except BlockingIOError:
            return False
        if data:
            self._tell(**{"id": ident, name: base64.b64encode(data).decode()})
        else:
            self._selector.unregister(pipe)
        return bool(data)

    def _ended(self, ident, pidfd):
        process = self._running.pop(ident)
        code = process.wait()
        self._selector.unregister(pidfd)
        os.close(pidfd)
        for name, pipe in (("out", process.stdout), ("err", process.stderr)):
            # A child that it left behind may hold the pipe open: so not until its end.
            if pipe.fileno() in self._selector.get_map():
                while self._pass(ident, name, pipe):
                    pass
            with contextlib.suppress(KeyError):
                self._selector.unregister(pipe)
            pipe.close()
        self._tell(id=ident, exit=code)

    def _signal(self, ident, number):
        if (process := self._running.get(ident)) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)


if __name__ == "__main__":
    line_fd = os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    tty.setraw(line_fd)
    Agent(line_fd).run()
