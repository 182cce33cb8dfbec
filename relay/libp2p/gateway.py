# SPDX-License-Identifier: GPL-2.0-or-later
"""A trustless gateway for raw blocks (https://specs.ipfs.tech/http-gateways/trustless-gateway/), and who has them.

Whoever asks checks what he gets by the CID he asked for. What is answered to what is decided by `answer`, which is free
of I/O.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import parse_qsl

from aiohttp import web

from relay.core.errors import DecodeError
from relay.core.stats import HttpRefused
from relay.libp2p.bitswap import UnavailableError
from relay.libp2p.cid import Cid, parse_cid
from relay.libp2p.multiaddr import TcpAddress
from relay.process.addresses import plain
from relay.process.http_server import HttpServer
from relay.process.shelf import piece

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from relay.core.stats import Reason

RAW_TYPE: Final = "application/vnd.ipld.raw"
_ROUTING_TYPE: Final = "application/json"
_IPFS: Final = "/ipfs/"
_PROVIDERS: Final = "/routing/v1/providers/"
_READ: Final = frozenset({"GET", "HEAD"})
#: A block never changes: 48 weeks, as other gateways say.
_FOR_EVER: Final = "public, max-age=29030400, immutable"
#: Whether somebody has a block may change: so long an answer holds.
_HAS_S, _HAS_NOT_S = 300, 15
_MAX_QUERY: Final = 16
_MAX_NAME_CHARS: Final = 120
_UNSAFE: Final = re.compile(r"[^ !#-.0-:<-\[\]-~]")
_ETAG: Final = re.compile(r'(?:W/)?("[\x21\x23-\x7e\x80-\xff]*")')
_RETRY_AFTER_S: Final = 5
#: Nothing of a block is a page, wherever it comes from.
_POLICY: Final = "default-src 'none'; sandbox"
_CORS: Final = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET, HEAD, OPTIONS",
    "Access-Control-Allow-Headers": "Content-Type, Range, User-Agent, X-Requested-With",
    "Access-Control-Expose-Headers": "Content-Length, Content-Range, X-Ipfs-Path, X-Ipfs-Roots",
    "Cross-Origin-Resource-Policy": "cross-origin",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """``event``: by which it is counted."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    event: str = "http_malformed"


def _error(status: int, said: str, event: str = "http_malformed", **headers: str) -> Answer:
    fixed = {"Content-Type": "text/plain; charset=utf-8", "Cache-Control": "no-store"}
    return Answer(
        status=status,
        headers=fixed | {name.replace("_", "-"): value for name, value in headers.items()},
        body=said.encode() + b"\n",
        event=event,
    )


@dataclass(frozen=True, slots=True)
class Question:
    """What a request asks for: a block, or who has it."""

    cid: Cid
    #: As it was written, which answers repeat.
    written: str
    is_routing: bool = False
    query: Mapping[str, str] = field(default_factory=dict)


def understand(method: str, path: str, query: str, accept: str) -> Question | Answer:
    """Return what a request asks for, or why it cannot be answered."""
    is_routing = path.startswith(_PROVIDERS)
    if not is_routing and not path.startswith(_IPFS):
        return _error(404, "Only /ipfs/CID and /routing/v1/providers/CID are here.", "http_elsewhere")
    if method not in _READ:
        return _error(405, "Only GET and HEAD.", "http_elsewhere", Allow="GET, HEAD, OPTIONS")
    written = path.removeprefix(_PROVIDERS if is_routing else _IPFS)
    written, slash, rest = written.partition("/")
    try:
        cid = parse_cid(written)
    except DecodeError as error:
        return _error(400, f"This is no CID that can be here: {error}.")
    try:
        said = dict(parse_qsl(query, keep_blank_values=True, max_num_fields=_MAX_QUERY))
    except ValueError:
        return _error(400, "Too many parameters.")
    if rest or (slash and is_routing):
        return _error(404, "A raw block has no paths.", "http_elsewhere")
    if is_routing:
        return Question(cid, written, is_routing=True)
    types = {part.partition(";")[0].strip().lower() for part in accept.split(",")}
    wanted = said.get("format")
    if wanted != "raw" if wanted is not None else RAW_TYPE not in types:
        return _error(406, f"Only raw blocks: ask with Accept: {RAW_TYPE} or ?format=raw.", Vary="Accept")
    return Question(cid, written, query=said)


def etag(cid: Cid) -> str:
    """By what a block is known to be the same."""
    return f'"{cid}.raw"'


def block_headers(question: Question) -> dict[str, str]:
    """The headers of each answer that has a block, or says that it is as it was."""
    name = _UNSAFE.sub("_", question.query.get("filename", ""))[:_MAX_NAME_CHARS] or f"{question.written}.bin"
    return {
        "Content-Type": RAW_TYPE,
        "Content-Disposition": f'attachment; filename="{name}"',
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": _POLICY,
        "Etag": etag(question.cid),
        "Cache-Control": _FOR_EVER,
        "X-Ipfs-Path": f"{_IPFS}{question.written}",
        "X-Ipfs-Roots": question.written,
        "Accept-Ranges": "bytes",
        "Vary": "Accept",
    }


@dataclass(frozen=True, slots=True)
class _Whole:
    size: int
    etag: str


def answer(question: Question, block: bytes | None, asked: Mapping[str, str]) -> Answer:
    """Return the answer to a question about a block, None if it is not here. ``asked``: headers, in lower case."""
    directives = {part.strip().lower() for part in asked.get("cache-control", "").split(",")}
    if block is None:
        if "only-if-cached" in directives:
            return _error(412, "This block is not here.", "http_missing")
        return _error(404, "This block is not here.", "http_missing")
    headers = block_headers(question)
    if _is_known(asked.get("if-none-match", ""), headers["Etag"]):
        for name in ("Content-Type", "Content-Disposition"):
            del headers[name]
        return Answer(status=304, headers=headers, event="http_unchanged")
    part = piece(_Whole(len(block), headers["Etag"]), asked.get("range", ""), asked.get("if-range", ""))
    if part.status == 416:
        return _error(416, "There is no such part.", Content_Range=f"bytes */{len(block)}")
    if part.status == 206:
        headers["Content-Range"] = f"bytes {part.start}-{part.start + part.length - 1}/{len(block)}"
    return Answer(
        status=part.status, headers=headers, body=block[part.start : part.start + part.length], event="http_served"
    )


def _is_known(said: str, own: str) -> bool:
    """Whether If-None-Match names it (RFC 9110 section 13.1.2: by weak comparison)."""
    return said.strip() == "*" or own in _ETAG.findall(said)


def providers(peer: str, addresses: list[str]) -> Answer:
    """Return who has a block: we, at ``addresses``, or nobody, where there are none."""
    record = {
        "Schema": "peer",
        "ID": peer,
        "Addrs": addresses,
        "Protocols": ["transport-ipfs-gateway-http"],
    }
    body = json.dumps({"Providers": [record] if addresses else []}, separators=(",", ":")).encode() + b"\n"
    headers = {
        "Content-Type": _ROUTING_TYPE,
        "Cache-Control": f"public, max-age={_HAS_S if addresses else _HAS_NOT_S}",
        "X-Content-Type-Options": "nosniff",
        "Vary": "Accept",
    }
    return Answer(status=200, headers=headers, body=body, event="http_served" if addresses else "http_missing")


class Blocks(Protocol):
    """Where blocks are."""

    async def read(self, identities: list[bytes]) -> dict[bytes, bytes]:
        """Return those that are here; raise UnavailableError."""


class _Counts:
    def __init__(self, count: Callable[..., None]) -> None:
        self._count = count

    def add(self, reason: Reason) -> None:
        self._count("http_places" if reason is HttpRefused.PLACE else "http_malformed")


class GatewayServer:
    """Serves blocks by HTTP; `async with` listens and stops."""

    def __init__(self, listen: tuple[str, int], blocks: Blocks, peer: str, *, count: Callable[..., None]) -> None:
        """``peer``: our peer ID as text."""
        self._blocks = blocks
        self._peer = peer
        self._count = count
        self.http = HttpServer(
            listen, self._answer, _Counts(count), policy=lambda: _POLICY, setting="gateway in [libp2p]"
        )

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        found = await self._find(request)
        self._count(found.event)
        # For HEAD the framework says the length and leaves the rest out.
        response = web.Response(status=found.status, body=found.body or None)
        response.headers.update(_CORS | found.headers)
        return response

    async def _find(self, request: web.BaseRequest) -> Answer:
        if request.method == "OPTIONS":
            return Answer(status=204, event="http_elsewhere")
        url = request.rel_url
        question = understand(request.method, url.path, url.query_string, request.headers.get("Accept", ""))
        if isinstance(question, Answer):
            return question
        cid = question.cid
        try:
            block = cid.digest if cid.inline else (await self._blocks.read([cid.digest])).get(cid.digest)
        except UnavailableError:
            return _error(503, "Ask again in a moment.", "http_unavailable", Retry_After=str(_RETRY_AFTER_S))
        if question.is_routing:
            return providers(self._peer, self._addresses(request) if block is not None else [])
        return answer(question, block, {name.lower(): value for name, value in request.headers.items()})

    def _addresses(self, request: web.BaseRequest) -> list[str]:
        """Where whoever asks reached us: nothing is told of another segment."""
        here = request.transport.get_extra_info("sockname") if request.transport else None
        if not here:
            return []
        return [f"{TcpAddress(plain(str(here[0])), int(here[1]))}/http"]
