"""The server: one FastAPI application over the registry's versions, and its life from start to SIGTERM."""

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from threading import Thread
from types import FrameType
from typing import Any, Literal

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from app import classifying, feedback, openai_api
from app.errors import Busy, Failed, RequestError, Timeout
from app.limits import Bodies, Keys, Measured, Sites
from app.metrics import RUNNING, WAITING
from app.quarantine import Quarantine
from app.settings import Settings
from app.versions import Versions
from llm.errors import UserError

GUARDED = ("/v1", "/classify", "/feedback", "/metrics")
PRELOADED = ("assistant", "classifier")
"""Objectives whose default versions are loaded before anybody asks."""
GOODBYE = 20.0
"""Seconds that answers have to come to their end when the server is told to end."""
IN_VAIN = {"x-should-retry": "false"}
"""Of an error that the next try would meet again: OpenAI's clients would have it all computed twice more."""
CONNECTIONS = 1000
"""Connections at once; more are refused with 503."""
MOST_HEAD = 16_384
"""Bytes of a request's head."""

logger = logging.getLogger(__name__)


class Health(BaseModel):
    """Whether the server answers."""

    status: Literal["ok"] = "ok"


class Ready(BaseModel):
    """What is loaded."""

    ready: bool
    versions: dict[str, str]
    """Each model's default with the version that answers, and `champion` or `challenger`."""
    reason: str | None = None
    """Why the server is not ready, or what the registry said last."""


def create_app(settings: Settings, *, page: bool = False) -> FastAPI:
    """The application, with the `page` where wished.

    It loads what the registry has when it starts, and watches the aliases while it runs.
    """
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
        summary="The champions of the registry, as OpenAI's clients ask for them, and for mail",
        version="1",
        lifespan=life,
        redoc_url=None,
    )
    app.state.versions, app.state.settings = versions, settings
    app.state.registry_error = "the registry has not been read yet"
    app.state.feedback = Quarantine(settings)
    app.state.loader = openai_api.Loader(versions)
    app.state.end_page = lambda: None
    for router in (openai_api.router, classifying.router, feedback.router):
        app.include_router(router)

    @app.get("/healthz", tags=["server"], summary="Does it live?")
    async def healthz() -> Health:
        """Yes, where this answers."""
        return Health()

    @app.get("/readyz", tags=["server"], summary="Can it answer?", responses={503: {"model": Ready}})
    async def readyz(response: Response) -> Ready:
        """Whether the default versions are loaded, and which they are."""
        found = versions.defaults(PRELOADED)
        ready, reason = bool(found) and all(found.values()), app.state.registry_error
        if not ready:
            response.status_code = 503
            reason = reason or "no model is registered; `make run` makes them"
        return Ready(ready=ready, versions={model: each for model, each in found.items() if each}, reason=reason)

    @app.get("/metrics", tags=["server"], summary="For Prometheus", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Counters, times and what runs now."""
        RUNNING.clear()  # of versions that are gone
        WAITING.clear()
        for each in versions.loaded:
            if each.engine:
                RUNNING.labels(each.registered_name).set(each.engine.running)
                WAITING.labels(each.registered_name).set(each.engine.waiting)
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
    if page:
        from app.page.mount import mount_page

        return mount_page(app)
    return app


async def _watch(app: FastAPI) -> None:
    """Keep what is loaded what the registry's aliases say; while it does not answer, what is loaded goes on."""
    versions, settings = app.state.versions, app.state.settings
    while True:
        try:
            await run_in_threadpool(versions.refresh, PRELOADED)
            app.state.registry_error = None
        except Exception as error:
            reason = " ".join(str(error).split())
            if reason != app.state.registry_error:
                logger.warning("the registry: %s", reason)
            app.state.registry_error = reason
        await asyncio.sleep(settings.poll_seconds)


async def _refused(_: Request, error: RequestError) -> JSONResponse:
    headers = {"Retry-After": str(error.retry_after)} if isinstance(error, Busy) else {}
    if isinstance(error, Failed | Timeout):
        headers = IN_VAIN
    return JSONResponse(openai_api.error_content(error), error.status, headers)


async def _user_error(_: Request, error: UserError) -> JSONResponse:
    return JSONResponse(openai_api.error_content(RequestError(str(error))), 400)


async def _bug(_: Request, error: Exception) -> JSONResponse:
    """Whoever runs the server finds the traceback in its log."""
    said = Failed("the server failed; its log says why")
    return JSONResponse(openai_api.error_content(said), Failed.status, IN_VAIN)


async def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
    """What is wrong with one part that is wrong, named as in `messages.0.role`."""
    # where a part may have several types, most of what pydantic finds is that it is none of the others
    found = next((each for each in error.errors() if not each["type"].endswith("_type")), error.errors()[0])
    place = ".".join(map(str, _there(found["loc"][1:], error.body, found["type"] == "missing")))
    reason = found["msg"].removeprefix("Value error, ")
    if isinstance(error.body, bytes):
        place, reason = "", "the body is not said to be JSON: send the header Content-Type: application/json"
    elif found["type"].startswith("union_tag"):  # whose place is the whole
        place = found["ctx"]["discriminator"].strip("'")
        reason = f"one of {', '.join(feedback.ABOUT)}"
    elif found["type"] == "json_invalid":  # whose place is a number of characters
        place, reason = "", f"no JSON: {found['ctx']['error']}"
    param = ".".join(filter(None, (place, found.get("ctx", {}).get("part"))))
    named = RequestError(f"{place}: {reason}" if place else reason, param or None, "invalid_request")
    as_openai_has_it = request.url.path.startswith(openai_api.router.prefix)
    return JSONResponse(openai_api.error_content(named), 400 if as_openai_has_it else 422)


def _there(parts: Sequence[str | int], body: Any, missing: bool) -> list[str | int]:
    """The parts of a place that a body has, and its last one where that is `missing`.

    pydantic names the types between them, too.
    """
    found: list[str | int] = []
    for number, part in enumerate(parts, 1):
        try:
            body = body[part]
        except (LookupError, TypeError):
            if not missing or number < len(parts) or isinstance(body, str | int | float | list):
                continue
        found.append(part)
    return found


async def _http_error(request: Request, error: HTTPException) -> JSONResponse:
    said, code = str(error.detail), {404: "not_found", 413: "too_large"}.get(error.status_code, "invalid_request")
    if error.status_code == 404 and request.url.path.startswith(openai_api.router.prefix):
        said = f"{said}: below {openai_api.router.prefix} there are chat/completions, completions and models"
    found = RequestError(said, None, code)
    return JSONResponse(openai_api.error_content(found), error.status_code, error.headers)


def http_config(app: FastAPI, host: str, port: int, log_level: str) -> uvicorn.Config:
    """How the application meets the network."""
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


def serve(settings: Settings, host: str, port: int, *, page: bool = True, log_level: str = "info") -> None:
    """Run the server until SIGTERM or Ctrl-C; texts that are written then have GOODBYE seconds to come to their end."""
    app = create_app(settings, page=page)

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            super().handle_exit(sig, frame)
            app.state.end_page()  # each open page holds a connection
            Thread(target=app.state.versions.close, args=(GOODBYE,), daemon=True).start()

    signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn raises it once more at its end: that is no failure
    Server(http_config(app, host, port, log_level)).run()
