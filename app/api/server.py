"""The server: one FastAPI application over the registry's versions, from its start to SIGTERM."""

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from threading import Thread
from types import FrameType
from typing import Literal

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse, Response
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from app.api import classify, feedback, responses, v1
from app.api.limits import Bodies, Keys, Measured, Sites
from app.api.schema import error_response
from app.errors import Busy, Failed, RequestError, Timeout, Unavailable
from app.feedback import Feedback
from app.guard import guard_model
from app.metrics import RUNNING, WAITING
from app.settings import Settings
from app.versions import Versions
from llm.errors import UserError

GUARDED = ("/v1", "/classify", "/feedback", "/metrics")
GOODBYE = 20.0
"""Seconds in which running answers may finish after SIGTERM."""
IN_VAIN = {"x-should-retry": "false"}
"""For an error that a retry would meet again: OpenAI's clients would have everything computed twice more."""
CONNECTIONS = 1000
"""Connections at once; more are refused with 503."""
MOST_HEAD = 16_384
"""Bytes of a request's head."""

logger = logging.getLogger(__name__)


class Health(BaseModel):
    """Whether the server answers."""

    status: Literal["ok"] = "ok"


class Ready(BaseModel):
    """The loaded models."""

    ready: bool
    versions: dict[str, str]
    """Each model with the version that answers by its name, and `champion` or `challenger`."""
    guard: str | None = None
    """The model that reads what users ask before the assistant does; null without one."""
    reason: str | None = None
    """Why the server is not ready, or the registry's last error."""


def create_app(settings: Settings) -> FastAPI:
    """The application. It loads default versions when it starts, and watches their aliases while it runs."""
    versions = Versions(settings)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        watch = asyncio.create_task(_watch(app))
        yield
        watch.cancel()
        with suppress(asyncio.CancelledError):
            await watch
        await run_in_threadpool(versions.close, GOODBYE)

    app = FastAPIOffline(  # its page at /docs asks no other host
        title="Threestage",
        summary="The registry's champions: OpenAI's API, and a classifier of mail",
        version="1",
        lifespan=life,
        redoc_url=None,
    )
    app.state.versions = versions
    app.state.settings = settings
    app.state.registry_error = "the registry has not been read yet"
    app.state.feedback = Feedback(settings)
    app.state.end_page = lambda: None
    for router in (v1.router, responses.router, classify.router, feedback.router):
        app.include_router(router)

    @app.get("/healthz", tags=["server"], summary="Is the server up?")
    async def healthz() -> Health:
        """The answer is always yes."""
        return Health()

    @app.get("/readyz", tags=["server"], summary="Is a model loaded?", responses={503: {"model": Ready}})
    async def readyz(response: Response) -> Ready:
        """Whether the default versions are loaded, and which they are."""
        defaults = versions.defaults()
        ready = bool(defaults) and all(defaults.values())
        reason = app.state.registry_error
        guard = None
        try:
            guard = guard_model(app.state.settings, versions.registered)
        except Unavailable as error:
            ready = False
            reason = str(error)
        if not ready:
            response.status_code = 503
            reason = reason or "no model is registered; `make run` makes them"
        loaded = {model: version for model, version in defaults.items() if version}
        return Ready(ready=ready, versions=loaded, guard=guard, reason=reason)

    @app.get("/metrics", tags=["server"], summary="For Prometheus", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Counters, times and what runs now."""
        RUNNING.clear()  # of versions that are gone
        WAITING.clear()
        for version in versions.loaded:
            if version.engine:
                RUNNING.labels(version.registered_name).set(version.engine.running)
                WAITING.labels(version.registered_name).set(version.engine.waiting)
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    app.add_exception_handler(RequestError, _refused)
    app.add_exception_handler(UserError, _user_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _bug)
    app.add_middleware(Keys, keys=settings.api_keys, guarded=GUARDED)
    app.add_middleware(Bodies, most=settings.body_bytes)
    app.add_middleware(Sites, allowed=settings.allowed_hosts, any_name=bool(settings.api_keys))
    app.add_middleware(Measured)
    return app


async def _watch(app: FastAPI) -> None:
    """Load what the registry's aliases point at; while the registry does not answer, what is loaded goes on."""
    versions: Versions = app.state.versions
    guard: str | None = ""  # not known yet
    while True:
        try:
            await run_in_threadpool(versions.refresh)
            app.state.registry_error = None
        except Exception as error:
            reason = " ".join(str(error).split())
            if reason != app.state.registry_error:
                logger.warning("the registry: %s", reason)
            app.state.registry_error = reason
        guard = _logged_guard(versions, guard)
        await asyncio.sleep(versions.settings.poll_seconds)


def _logged_guard(versions: Versions, before: str | None) -> str | None:
    """The guard, with a line in the log if chats are answered without one and were not before."""
    if not versions.registered:
        return before
    try:
        guard = guard_model(versions.settings, versions.registered)
    except Unavailable as error:
        guard = str(error)
    if guard is None and before is not None:
        reason = "no guard is registered" if versions.settings.guard else "it is turned off"
        logger.warning("chats are answered without a guard: %s", reason)
    return guard


async def _refused(_: Request, error: RequestError) -> Response:
    headers = {"Retry-After": str(error.retry_after)} if isinstance(error, Busy) else {}
    return error_response(error, headers=IN_VAIN if isinstance(error, Failed | Timeout) else headers)


async def _user_error(_: Request, error: UserError) -> Response:
    return error_response(RequestError(str(error)))


async def _bug(_: Request, error: Exception) -> Response:
    """The log has the traceback."""
    return error_response(Failed("the server failed; its log says why"), headers=IN_VAIN)


async def _invalid(request: Request, error: RequestValidationError) -> Response:
    """The reason why one part is wrong, with its place, such as `messages.0.role`."""
    # for a part of several types, most of pydantic's errors are that it is none of the others
    specific = [detail for detail in error.errors() if not detail["type"].endswith("_type")]
    first = (specific or error.errors())[0]
    path = ".".join(map(str, first["loc"][1:]))
    reason = first["msg"].removeprefix("Value error, ")
    if isinstance(error.body, bytes):
        reason = "the body is not said to be JSON: send the header Content-Type: application/json"
    param = ".".join(filter(None, (path, first.get("ctx", {}).get("part"))))
    refusal = RequestError(f"{path}: {reason}" if path else reason, param or None)
    return error_response(refusal, 400 if request.url.path.startswith(v1.router.prefix) else 422)


async def _http_error(request: Request, error: HTTPException) -> Response:
    reason = str(error.detail)
    code = {404: "not_found", 413: "too_large"}.get(error.status_code)
    if error.status_code == 404 and request.url.path.startswith(v1.router.prefix):
        reason = f"{reason}: below {v1.router.prefix} there are chat/completions, completions, responses and models"
    return error_response(RequestError(reason, None, code), error.status_code, headers=error.headers)


def http_config(app: FastAPI, host: str, port: int, log_level: str) -> uvicorn.Config:
    """uvicorn's settings."""
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        log_level=log_level,
        http="h11",
        ws="none",
        limit_concurrency=CONNECTIONS,
        h11_max_incomplete_event_size=MOST_HEAD,
        proxy_headers="FORWARDED_ALLOW_IPS" in os.environ,  # else any client on this machine could write its address
        timeout_keep_alive=15,
        timeout_graceful_shutdown=int(GOODBYE) + 5,
        server_header=False,
    )


def serve(app: FastAPI, host: str, port: int, log_level: str = "info") -> None:
    """Run the server until SIGTERM or Ctrl-C; running answers then have GOODBYE seconds to finish."""

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            super().handle_exit(sig, frame)
            app.state.end_page()  # each open page holds a connection
            Thread(target=app.state.versions.close, args=(GOODBYE,), daemon=True).start()

    signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn raises it once more at its end: that is no failure
    Server(http_config(app, host, port, log_level=log_level)).run()
