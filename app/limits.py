"""What the server lets in: keys, sizes and times, before a request reaches anything else.

Heads are bounded where connections are read, the rest by ASGI middlewares: Starlette's BaseHTTPMiddleware would hold
back the pieces of a stream.
"""

import asyncio
import hmac
import json
import math
import time
from collections.abc import Callable, Collection, Coroutine
from contextlib import suppress
from ipaddress import ip_address, ip_network
from typing import Any, TypeVar

import h11
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from app.errors import Gone
from app.metrics import REQUESTS, SECONDS
from app.settings import host_of

T = TypeVar("T")
BEARER = {"www-authenticate": "Bearer"}
CLOSE = {"connection": "close"}


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
    raw, body = _error(status, message, code, headers)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": body})

    return app


def _error(
    status: int, message: str, code: str, headers: dict[str, str] | None
) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Its headers and its body."""
    kind = "invalid_request_error" if status < 429 else "server_error"
    body = json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}}).encode()
    all_headers = {"content-type": "application/json", "content-length": str(len(body))} | (headers or {})
    return [(name.encode(), value.encode()) for name, value in all_headers.items()], body


class _Lingering:
    """A transport that is closed behind an answer to a request whose rest still comes (RFC 9112, section 9.6).

    To close a connection with bytes unread resets it, and what its client has not read of the answer may go with it. So
    our direction ends first; what still comes is taken, and left to nobody, until the client ends its own, or `seconds`
    are over. Under TLS, which can't end one direction, it is closed as by itself.
    """

    def __init__(self, transport: asyncio.Transport, comes: Callable[[], bool], seconds: float) -> None:
        self._transport, self._comes, self._seconds = transport, comes, seconds
        self._end: asyncio.TimerHandle | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    @property
    def lingers(self) -> bool:
        return self._end is not None

    def is_closing(self) -> bool:
        return self.lingers or self._transport.is_closing()

    def close(self) -> None:
        if self.is_closing() or not self._comes() or not self._transport.can_write_eof():
            return self._transport.close()
        self._end = asyncio.get_running_loop().call_later(self._seconds, self._transport.abort)
        with suppress(OSError):  # reset meanwhile, of which the transport hears when it reads
            self._transport.write_eof()
        self._transport.resume_reading()

    def closed(self) -> None:
        if self._end is not None:
            self._end.cancel()


class TimedHeads(H11Protocol):
    """uvicorn's HTTP/1.1, which closes a connection that takes more than `seconds` to bring the head of a request.

    By itself uvicorn waits without an end for the first byte of a new connection, for the rest of a head, for the rest
    of a body whose request was answered before it had come, and for who does not read an answer. How long a connection
    may rest between two requests is its `timeout_keep_alive`. An answer that ends the connection reaches who still
    writes.
    """

    def __init__(self, *, seconds: float, **options: Any) -> None:
        super().__init__(**options)
        self.seconds = seconds
        self._late: asyncio.TimerHandle | None = None
        self._full: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """The time begins."""
        super().connection_made(_Lingering(transport, self._comes, self.seconds))
        self._watch()

    def data_received(self, data: bytes) -> None:
        """The time ends with a whole head, and begins with the first byte of the next."""
        if not self.transport.lingers:
            super().data_received(data)
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """The time ends."""
        super().connection_lost(exc)
        self.transport.closed()
        self._unwatch()
        self._flows()

    def pause_writing(self) -> None:
        """What is written waits for a client that does not read: it has so many seconds for each piece of it."""
        super().pause_writing()
        if self._full is None:
            self._look(math.inf)

    def resume_writing(self) -> None:
        """It reads."""
        super().resume_writing()
        self._flows()

    def _look(self, before: float) -> None:
        if (left := self.transport.get_write_buffer_size()) >= before:
            return self.transport.abort()
        self._full = self.loop.call_later(self.seconds, self._look, left)

    def _flows(self) -> None:
        if self._full is not None:
            self._full.cancel()
            self._full = None

    def shutdown(self) -> None:
        """The server ends, and waits for no request that is not yet whole or was answered before it was."""
        super().shutdown()
        if self.transport.lingers:
            self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """A body that is no HTTP: who reads it is told that nothing more comes."""
        super().send_400_response(msg)
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def _comes(self) -> bool:
        """Whether a request has begun and not ended."""
        head = self.conn.their_state is h11.IDLE and bool(self.conn.trailing_data[0])
        return head or self.conn.their_state in (h11.SEND_BODY, h11.ERROR)

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._unwatch()
        elif self._late is None:
            self._late = self.loop.call_later(self.seconds, self._give_up)

    def _unwatch(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _give_up(self) -> None:
        if self.conn.our_state is h11.IDLE and self.conn.trailing_data[0]:  # who sent nothing asked for nothing
            headers, body = _error(*_slow(self.seconds), CLOSE)
            for event in (
                h11.Response(status_code=408, headers=headers, reason=b"Request Timeout"),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event))
        self.transport.close()


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
        self.app, self.keys, self.guarded = app, [key.encode() for key in keys], guarded

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self.keys and scope["path"].startswith(self.guarded):
            given = dict(scope["headers"]).get(b"authorization", b"")
            scheme, _, key = given.partition(b" ")
            # every key is compared, so that the time says nothing about which one was close
            right = [hmac.compare_digest(key.strip(), each) for each in self.keys]
            if scheme.lower() != b"bearer" or not any(right):
                refuse = refusal(401, "a key is needed: Authorization: Bearer KEY", "invalid_api_key", BEARER)
                return await refuse(scope, receive, send)
        return await self.app(scope, receive, send)


def _slow(seconds: float) -> tuple[int, str, str]:
    return 408, f"the request did not come within {seconds:g} s", "too_slow"


class _RefusedError(Exception):
    pass


class Bodies:
    """Bounds the size of a request and the time in which it comes."""

    def __init__(self, app: ASGIApp, most: int, seconds: float) -> None:
        self.app, self.most, self.seconds = app, most, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        large = refusal(413, f"the request has more than {self.most} bytes", "too_large", CLOSE)
        slow = refusal(*_slow(self.seconds), CLOSE)
        deadline = time.monotonic() + self.seconds
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared[:20]) > self.most:
            return await large(scope, receive, send)
        size, whole, started = 0, False, False
        refused: ASGIApp | None = None

        async def bounded() -> Message:
            nonlocal size, whole, refused
            if refused:
                raise _RefusedError
            if whole:  # what comes now is that the client has left
                return await receive()
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    message = await receive()
            except TimeoutError:
                refused = slow
                raise _RefusedError from None
            if message["type"] == "http.request":
                size += len(message.get("body", b""))
                whole = not message.get("more_body", False)
                if size > self.most:
                    refused = large
                    raise _RefusedError
            return message

        async def noted(message: Message) -> None:
            nonlocal started
            if refused and not started:  # what the application makes of it, which may have caught our exception
                return
            started = True
            await send(message)

        try:
            await self.app(scope, bounded, noted)
        except Exception:  # ours, or what the application made of it; its own go on
            if not refused:
                raise
        if refused and not started:
            await refused(scope, receive, send)


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
