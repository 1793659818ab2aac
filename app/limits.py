"""What the server lets in: keys, hosts, origins and sizes, as ASGI middleware.

Starlette's BaseHTTPMiddleware would hold back the pieces of a stream. uvicorn's own settings bound connections and
heads; a reverse proxy bounds the rest (docs/serving.md).
"""

import asyncio
import json
import time
from collections.abc import Callable, Collection, Coroutine
from ipaddress import ip_address, ip_network
from typing import Any, TypeVar

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import Gone
from app.metrics import REQUESTS, SECONDS
from app.settings import host_of, is_key

T = TypeVar("T")
BEARER = {"www-authenticate": "Bearer"}


def network_of(request: Any) -> str | None:
    """The network that a request comes from: an IPv4 /24 or an IPv6 /64, as one person may have all of its addresses.

    Anything else is returned as it is.
    """
    host = request.client.host if request.client else None
    try:
        address = ip_address((host or "").partition("%")[0])
    except ValueError:
        return host
    address = getattr(address, "ipv4_mapped", None) or address
    return str(ip_network(f"{address}/{24 if address.version == 4 else 64}", strict=False))


def refusal(status: int, message: str, code: str, headers: dict[str, str] | None = None) -> ASGIApp:
    """An answer in OpenAI's form of an error."""
    kind = "invalid_request_error" if status < 429 else "server_error"
    body = json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}}).encode()
    all_headers = {"content-type": "application/json", "content-length": str(len(body))} | (headers or {})
    raw = [(name.encode(), value.encode()) for name, value in all_headers.items()]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": body})

    return app


class Sites:
    """Refuses what a page of another site has a browser ask.

    Such a page may have a name that leads to this server's address (DNS rebinding): what has no keys answers to
    addresses, `localhost` and the names that are `allowed`. And it may ask across sites, which a browser says under
    Origin: that is the host that is asked, or an allowed one. With a key under Authorization no such page can ask, as a
    browser would ask first whether it may.
    """

    def __init__(self, app: ASGIApp, allowed: Collection[str], *, any_name: bool) -> None:
        self.app, self.allowed, self.any_name = app, {host_of(name) for name in allowed}, any_name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = dict(scope["headers"])
            asked, origin = (headers.get(name, b"").decode("latin-1") for name in (b"host", b"origin"))
            if b"authorization" in headers:
                origin = ""
            if refuse := self._refused(asked, origin):
                return await refuse(scope, receive, send)
        return await self.app(scope, receive, send)

    def _refused(self, asked: str, origin: str) -> ASGIApp | None:
        if asked and not (self.any_name or self._is_own(host_of(asked))):
            said = f"{asked[:200]!r} is no name of this server: --allowed-hosts gives it some"
            return refusal(421, said, "other_host")
        if origin and origin.partition("//")[2].lower() != asked.lower() and host_of(origin) not in self.allowed:
            said = f"{origin[:200]!r} is another site than {asked[:200]!r}: --allowed-hosts gives the server more names"
            return refusal(403, said, "other_site")
        return None

    def _is_own(self, name: str) -> bool:
        if name in self.allowed or name.rpartition(".")[2] == "localhost":  # which no name server is asked for
            return True
        try:
            ip_address(name)
        except ValueError:
            return False
        return True


class Keys:
    """Refuses who names no key of ours, where there are any. The page has a log-in of its own."""

    def __init__(self, app: ASGIApp, keys: tuple[str, ...], guarded: tuple[str, ...]) -> None:
        self.app, self.keys, self.guarded = app, keys, guarded

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self.keys and scope["path"].startswith(self.guarded):
            scheme, _, key = dict(scope["headers"]).get(b"authorization", b"").partition(b" ")
            if scheme.lower() != b"bearer" or not is_key(key.decode(errors="replace"), self.keys):
                refuse = refusal(401, "a key is needed: Authorization: Bearer KEY", "invalid_api_key", BEARER)
                return await refuse(scope, receive, send)
        return await self.app(scope, receive, send)


class Bodies:
    """Bounds the size of a request."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self.app, self.most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        reason, size = f"the request has more than {self.most} bytes", 0
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared[:20]) > self.most:
            return await refusal(413, reason, "too_large")(scope, receive, send)

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
        began, status = time.monotonic(), 500

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


async def until_gone(request: Request, work: Coroutine[Any, Any, T], close: Callable[[], None]) -> T:
    """The result of some work. Raises Gone where the client leaves before; the work is then stopped, and closed."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise Gone("the client has left")
    finally:
        gone.cancel()
        task.cancel()
        close()


async def _gone(request: Request) -> None:
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            return
