"""Prefect's server as this project starts it: it answers its own page and this machine's programs alone.

By itself Prefect's server asks for no password, answers any Host and allows every origin: a web page that somebody
opens could create a deployment, and a worker would run its shell steps. `uvicorn --factory
tasks.stages.prefect_app:create_app` starts it without that. Besides the page at the server's own address it answers the
origins in PREFECT_SERVER_CORS_ALLOWED_ORIGINS.
"""

from collections.abc import Collection

from prefect.server.api import server
from prefect.settings import PREFECT_SERVER_CORS_ALLOWED_ORIGINS
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from tasks.stages.sites import is_own_name, is_same_site


class OwnPage:
    """ASGI middleware that refuses what another site's page sends: a foreign Host with 400, a foreign Origin with 403.

    Browsers send the Origin with each request that changes something and with each websocket; programs send none.
    """

    def __init__(self, app: ASGIApp, origins: Collection[str]) -> None:
        """`origins` are further ones that are answered, such as `http://localhost:4200`."""
        self.app, self.origins = app, origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self.app
        if scope["type"] in ("http", "websocket"):
            app = self._refusal(Headers(scope=scope)) or app
        await app(scope, receive, send)

    def _refusal(self, headers: Headers) -> ASGIApp | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if not is_own_name(host):
            return PlainTextResponse(f"{host[:200]!r} is no name of this server\n", 400)
        if origin is not None and origin not in self.origins and not is_same_site(origin, host):
            reason = f"{origin[:200]!r} is another site: PREFECT_SERVER_CORS_ALLOWED_ORIGINS names those that may ask"
            return PlainTextResponse(f"{reason}\n", 403)
        return None


def create_app() -> ASGIApp:
    """Prefect's application for uvicorn, by the settings of its environment."""
    origins = PREFECT_SERVER_CORS_ALLOWED_ORIGINS.value().split(",")
    return OwnPage(server.create_app(), origins)
