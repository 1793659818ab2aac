"""ASGI middleware that checks keys, hosts, origins and sizes of requests.

Starlette's BaseHTTPMiddleware would hold back the pieces of a stream. uvicorn's own settings bound connections and
heads; a reverse proxy bounds the rest (docs/operating.md).
"""

import asyncio
import time
from collections.abc import Collection, Coroutine
from typing import Any, TypeVar

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.schema import error_response
from app.clients import is_key
from app.errors import Gone, RequestError
from app.metrics import REQUESTS, SECONDS
from tasks.stages.sites import host_of, is_own_name, is_same_site

T = TypeVar("T")
BEARER = {"www-authenticate": "Bearer"}


class Sites:
    """Refuses requests that a page of another site has a browser send.

    The name of such a page may lead to this server's address (DNS rebinding): a server without keys answers to
    addresses, `localhost` and `allowed` names alone. Across sites, a browser sends the page as Origin: it must be the
    host of the request, or an allowed one. A request with a key may come from anywhere, as a browser asks first.
    """

    def __init__(self, app: ASGIApp, allowed: Collection[str], *, any_name: bool) -> None:
        self.app = app
        self.allowed = {host_of(name) for name in allowed}
        self.any_name = any_name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refuse = self._refused(dict(scope["headers"])) if scope["type"] == "http" else None
        await (refuse or self.app)(scope, receive, send)

    def _refused(self, headers: dict[bytes, bytes]) -> ASGIApp | None:
        host = headers.get(b"host", b"").decode("latin-1")
        origin = headers.get(b"origin", b"").decode("latin-1")
        if host and not (self.any_name or is_own_name(host, self.allowed)):
            reason = f"{host[:200]!r} is no name of this server: --allowed-hosts gives it some"
            return error_response(RequestError(reason, None, "other_host"), 421)
        same = is_same_site(origin, host) or host_of(origin) in self.allowed
        if origin and not same and b"authorization" not in headers:
            reason = (
                f"{origin[:200]!r} is another site than {host[:200]!r}: --allowed-hosts gives the server more names"
            )
            return error_response(RequestError(reason, None, "other_site"), 403)
        return None


class Keys:
    """Refuses requests to guarded paths without a key, if there are keys. The page has a log-in of its own."""

    def __init__(self, app: ASGIApp, keys: tuple[str, ...], guarded: tuple[str, ...]) -> None:
        self.app = app
        self.keys = keys
        self.guarded = guarded

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self.app
        if scope["type"] == "http" and self.keys and scope["path"].startswith(self.guarded):
            scheme, _, key = dict(scope["headers"]).get(b"authorization", b"").partition(b" ")
            if scheme.lower() != b"bearer" or not is_key(key.decode(errors="replace"), self.keys):
                reason = "a key is needed: Authorization: Bearer KEY"
                app = error_response(RequestError(reason, None, "invalid_api_key"), 401, BEARER)
        await app(scope, receive, send)


class Bodies:
    """Bounds the size of a request."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self.app = app
        self.most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        reason = f"the request has more than {self.most} bytes"
        size = 0
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared[:20]) > self.most:
            return await error_response(RequestError(reason, None, "too_large"), 413)(scope, receive, send)

        async def bounded() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self.most:
                raise HTTPException(413, reason)
            return message

        return await self.app(scope, bounded, send)


class Measured:
    """Counts requests by route and status, and their time."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        began = time.monotonic()
        status = 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            return await self.app(scope, receive, noted)
        finally:
            route = getattr(scope.get("route"), "path", "other")  # a path as it came could be any text
            REQUESTS.labels(route, status).inc()
            SECONDS.labels(route).observe(time.monotonic() - began)


async def until_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of some work. If the client leaves before, it is cancelled; raises Gone."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Gone("the client has left")
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
