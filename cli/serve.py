"""`threestage serve`: the page and the API."""

import logging
from typing import Annotated, Literal

import typer

from cli.shared import Guard, check_store
from llm.errors import UserError


def _keys(variable: str, help_: str) -> typer.models.OptionInfo:
    return typer.Option(envvar=variable, show_default=False, help=help_)


def _split(text: str) -> tuple[str, ...]:
    """The values of a list with commas."""
    return tuple(value.strip() for value in text.split(",") if value.strip())


def serve(
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0: every address.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    rows: Annotated[int, typer.Option(min=1, help="Texts that a version writes at once.")] = 32,
    queue: Annotated[int, typer.Option(min=0, help="Requests that may wait; more are refused with 429.")] = 64,
    page: Annotated[bool, typer.Option(help="Serve the web page next to the API.")] = True,
    guard: Guard = True,
    feedback: Annotated[bool, typer.Option(help="Keep feedback on answers, in data/feedback/.")] = True,
    api_keys: Annotated[str, _keys("THREESTAGE_API_KEYS", "KEY,KEY; without any, all may ask.")] = "",
    allowed_hosts: Annotated[
        str, _keys("THREESTAGE_ALLOWED_HOSTS", "NAME,NAME: the server's names beside localhost and its addresses.")
    ] = "",
    log_level: Annotated[Literal["error", "warning", "info", "debug"], typer.Option(help="How much to log.")] = "info",
) -> None:
    """Serve champions: a page, OpenAI's API, /classify, /feedback."""
    check_store()
    from tasks.stages.sites import host_of

    names = _split(allowed_hosts)
    for name in names:
        if not host_of(name) or "*" in name:
            raise UserError(f"--allowed-hosts: {name!r} is no name of a host, such as model.example")
    from app.api.server import create_app
    from app.api.server import serve as run_server
    from app.settings import Settings

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("app").setLevel(log_level.upper())
    settings = Settings(
        api_keys=_split(api_keys),
        allowed_hosts=(*names, host),
        rows=rows,
        queue=queue,
        guard=guard,
        feedback=feedback,
    )
    app = create_app(settings)
    if page:
        from app.page.mount import mount_page

        mount_page(app)
    run_server(app, host=host, port=port, log_level=log_level)
