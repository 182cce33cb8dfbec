# SPDX-License-Identifier: GPL-2.0-or-later
"""Answers on port 80 of the access point that keep phones on it.

A phone that joins a network asks a server of its maker for a known page over plain
HTTP. If it does not get it, it leaves for the mobile network, or shows a login page
that nobody can fill in. So the relay answers in the maker's place: checks.toml says
whom each system asks, and for what.

Android asks over HTTPS as well, which nobody but its maker can answer, and then says
"limited connection": the phone stays, once its owner has said so.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from relay.appliance.checks import Answer
from relay.appliance.constants import ACCESS_POINT_ADDRESS
from relay.appliance.portal_shelf import ShelfRequest, is_for_shelf

if TYPE_CHECKING:
    from relay.appliance.checks import Checks

#: A browser's request line and headers; what is longer is no probe.
MAX_REQUEST_BYTES: Final = 8192
#: By these NetworkManager and ConnMan know that they are through, whatever else the answer is: so computers whose
#: maker's host is in no table open no login window, either (nm-connectivity.c, connman's wispr.c).
_ONLINE: Final = {"X-NetworkManager-Status": "online", "X-ConnMan-Status": "online"}
_LOST: Final = Answer(
    status=404,
    body=f"There is no internet here. http://{ACCESS_POINT_ADDRESS.ip}/ says what this is.\n".encode(),
)
#: What is printed and drawn as a code: an address, or a name of one label, also with `.local`. The code of a longer
#: text would take a Raspberry Pi seconds, and no phone would read it.
_ADDRESS: Final = re.compile(r"\d{1,3}(\.\d{1,3}){3}|[a-z0-9-]{1,63}(\.local)?", re.ASCII)
_REASONS: Final = {
    200: "OK",
    204: "No Content",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    503: "Service Unavailable",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PageRequest:
    """Somebody typed the relay's address. ``language``: of the query, "" for none; ``head``: no body is wanted."""

    host: str
    language: str
    accept_language: str
    head: bool


def answer(request: bytes, checks: Checks) -> bytes | PageRequest:
    """The whole answer to a request's head (up to its empty line); any bytes get one, and the connection ends.

    The page for people is made by whoever calls this (relay.appliance.portal_page): it takes longer than a phone's
    check may.
    """
    asked = _read(request)
    if isinstance(asked, Answer):
        return respond(asked)
    if asked.path == "/" and _is_ours(asked.host):
        return PageRequest(
            host=_shown(asked.host),
            language=asked.language,
            accept_language=_header(asked.headers, b"accept-language"),
            head=asked.head,
        )
    return respond(checks.find(asked.host, asked.path) or _LOST, head=asked.head)


def shelf_request(request: bytes) -> ShelfRequest | None:
    """The request as one for the shelf, if it is one: well formed, for a path of it, on this box by whatever name."""
    asked = _read(request)
    if isinstance(asked, Answer) or not (is_for_shelf(asked.path) and _is_ours(asked.host)):
        return None
    return ShelfRequest(
        host=_shown(asked.host),
        path=asked.path,
        language=asked.language,
        head=asked.head,
        wanted_range=_header(asked.headers, b"range"),
        if_range=_header(asked.headers, b"if-range"),
        accept_language=_header(asked.headers, b"accept-language"),
    )


class _Head(NamedTuple):
    host: str
    path: str
    language: str
    head: bool
    headers: list[bytes]


def _read(request: bytes) -> _Head | Answer:
    """What a request's head asks for, or the answer to one that is none."""
    first, *headers = request.split(b"\r\n")
    words = first.split(b" ")
    if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
        return Answer(status=400)
    if words[0] not in {b"GET", b"HEAD"}:
        return Answer(status=405)
    # A proxy's form (RFC 9112 section 3.2.2) names the host before the path.
    target = words[1].decode("latin-1")
    host, path = _split(target) if target.lower().startswith("http://") else (_host(headers), target)
    path, _, query = path.partition("?")
    language = query.partition("lang=")[2].partition("&")[0][:8]
    return _Head(host, path, language, words[0] == b"HEAD", headers)


def _split(target: str) -> tuple[str, str]:
    host, slash, path = target[len("http://") :].partition("/")
    return _bare(host), slash + path or "/"


def _host(headers: list[bytes]) -> str:
    """The host that was asked for, "" if the request does not say."""
    return _bare(_header(headers, b"host"))


def _header(headers: list[bytes], wanted: bytes) -> str:
    """The first header of that name, "" without one."""
    for line in headers:
        name, _, value = line.partition(b":")
        if name.strip().lower() == wanted:
            return value.decode("latin-1").strip()
    return ""


def _bare(host: str) -> str:
    """Without port, and without the dot at the end that Ubuntu writes."""
    return host.strip().lower().partition(":")[0].rstrip(".")


def _is_ours(host: str) -> bool:
    """Whether a person typed it to see this box: an address, a name without dots, or one of the local network."""
    return "." not in host or host.endswith(".local") or host.rpartition(".")[2].isdigit()


def _shown(host: str) -> str:
    """How the box is called on a page: as it was, if that can be an address or name, else by its fixed address."""
    return host if _ADDRESS.fullmatch(host) else str(ACCESS_POINT_ADDRESS.ip)


def respond(found: Answer, *, head: bool = False) -> bytes:
    """The bytes of an answer; ``head``: without its body."""
    headers = {"Cache-Control": "no-store", "Connection": "close", **_ONLINE, **found.headers}
    if found.status != 204:
        headers |= {"Content-Type": found.type, "Content-Length": str(len(found.body))}
    lines = [f"HTTP/1.1 {found.status} {_REASONS[found.status]}", *(f"{name}: {headers[name]}" for name in headers)]
    return "\r\n".join([*lines, "", ""]).encode() + (b"" if head else found.body)
