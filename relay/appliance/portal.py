# SPDX-License-Identifier: GPL-2.0-or-later
"""Answers on port 80 of the access point that keep phones on it.

A phone that joins a network asks a server of its maker for a known page over plain
HTTP. If it does not get it, it leaves for the mobile network, or shows a login page
that nobody can fill in. So the relay answers in the maker's place:

========= ===================================== ==========================
system    asks                                  wants
========= ===================================== ==========================
Android   /generate_204, /gen_204               204, empty
iOS, Mac  /hotspot-detect.html,                 200, a page "Success"
          /library/test/success.html
Windows   /connecttest.txt                      "Microsoft Connect Test"
          /ncsi.txt                             "Microsoft NCSI"
Firefox   /success.txt                          "success"
          /canonical.html                       a page that redirects
GNOME     /check_network_status.txt             "NetworkManager is online"
========= ===================================== ==========================

Android asks over HTTPS as well, which nobody but its maker can answer, and then says
"limited connection": the phone stays, once its owner has said so.
"""

from __future__ import annotations

from relay.appliance.names import ACCESS_POINT_ADDRESS

#: The servers that are asked, for the name server of the access point.
PROBE_NAMES = (
    "connectivitycheck.gstatic.com",
    "connectivitycheck.android.com",
    "clients3.google.com",
    "play.googleapis.com",
    "captive.apple.com",
    "www.msftconnecttest.com",
    "ipv6.msftconnecttest.com",
    "www.msftncsi.com",
    "detectportal.firefox.com",
    "nmcheck.gnome.org",
    "connectivity-check.ubuntu.com",
)
#: Windows also asks for this name, and wants this address.
WINDOWS_NAME = ("dns.msftncsi.com", "131.107.255.255")
#: A browser's request line and headers; what is longer is no probe.
MAX_REQUEST_BYTES = 8192

_APPLE = b"<HTML><HEAD><TITLE>Success</TITLE></HEAD><BODY>Success</BODY></HTML>"
_FIREFOX = b'<meta http-equiv="refresh" content="0;url=https://support.mozilla.org/kb/captive-portal"/>'
_PAGE = (
    b'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    b"<title>Mesh relay</title><h1>Mesh relay</h1><p>This box keeps and passes on encrypted messages, without the"
    b" internet. Use it with an app that speaks to mesh relays; there is nothing to log in to.</p></html>\n"
)
_LOST = f"There is no internet here. http://{ACCESS_POINT_ADDRESS.ip}/ says what this is.\n".encode()
_TEXT = "text/plain"
_HTML = "text/html"
_ANSWERS: dict[str, tuple[str, bytes]] = {
    "/hotspot-detect.html": (_HTML, _APPLE),
    "/library/test/success.html": (_HTML, _APPLE),
    "/connecttest.txt": (_TEXT, b"Microsoft Connect Test"),
    "/ncsi.txt": (_TEXT, b"Microsoft NCSI"),
    "/success.txt": (_TEXT, b"success\n"),
    "/canonical.html": (_HTML, _FIREFOX),
    "/check_network_status.txt": (_TEXT, b"NetworkManager is online\n"),
    "/": (_HTML, _PAGE),
}
_EMPTY = frozenset({"/generate_204", "/gen_204"})


def answer(request: bytes) -> bytes:
    """The whole answer to a request's head (up to its empty line); any bytes get one, and the connection ends."""
    words = request.split(b"\r\n", 1)[0].split(b" ")
    if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
        return _response("400 Bad Request", _TEXT, b"")
    if words[0] not in {b"GET", b"HEAD"}:
        return _response("405 Method Not Allowed", _TEXT, b"")
    path = words[1].decode("latin-1").partition("?")[0]
    if path in _EMPTY:
        return _response("204 No Content", None, b"")
    found = _ANSWERS.get(path)
    status = "200 OK" if found else "404 Not Found"
    kind, body = found or (_TEXT, _LOST)
    return _response(status, kind, body, head=words[0] == b"HEAD")


def _response(status: str, kind: str | None, body: bytes, *, head: bool = False) -> bytes:
    lines = [f"HTTP/1.1 {status}", "Cache-Control: no-store", "Connection: close"]
    if kind is not None:
        lines += [f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + (b"" if head else body)
