"""The page: chat, mail and the comparison of two versions, on the server's own address.

Gradio builds it and calls the app's functions in this process. Its Content-Security-Policy keeps the page, and what a
text could bring in, from asking another host.
"""

import hashlib
import os
import re
from base64 import b64encode
from datetime import datetime
from functools import partial
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.clients import is_key
from llm.errors import UserError

TITLE = "Threestage"
WELCOME = f"# {TITLE}\nChat with the assistant, check a mail, or compare two versions."
STYLES = """
.gradio-container { width: 100% !important; max-width: 60rem !important; margin: 0 auto; }
#verdict { overflow-wrap: anywhere; }
"""
MOST_PAGE = 10_000
"""Bytes of a request around the file that it carries."""
POLICY = (
    "default-src 'self'; script-src 'self' {scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; frame-src 'none'; frame-ancestors 'self'; "
    "object-src 'none'; base-uri 'self'; form-action 'self'"
)
"""Gradio sets styles on elements; of inline scripts only the page's own run, by their hashes."""
SESSIONS = 200
"""Pages whose fields Gradio holds in memory, such as the mail that was checked last."""
REMEMBERED = 3600
"""Seconds after the last use of a page until Gradio forgets them."""
OPEN = ("/assets/", "/static/", "/theme.css", "/favicon.ico", "/config", "/login", "/logout")
EVENTS = ("run/predict", "queue/join", "queue/data", "heartbeat/", "upload", "cancel", "reset")
"""What the page asks for beside itself: Gradio has more, by which files are handed out or what a page shows is kept."""
SCRIPT = re.compile(rb"<script\b(?![^>]*\bsrc=)[^>]*>(.*?)</script>", re.DOTALL)


def mount_page(app: FastAPI) -> FastAPI:
    """Give the page what it asks for and no route of the app takes; what is not there stays the app's 404.

    Where the settings have keys, one of them is the password of a log-in. An open page keeps a connection, and with it
    the server, for as long as it is open: `app.state.end_page()` ends them all.
    Call `app.state.forget()` now and then.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported, which takes seconds
    import gradio as gr
    from gradio import processing_utils

    from app.page_chat import chat_tab
    from app.page_compare import compare_tab
    from app.page_email import email_tab
    from app.page_feedback import feedback_tab

    settings = app.state.settings
    hour = 3600
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(hour, hour)) as blocks:
        gr.Markdown(WELCOME)
        tabs = {"Chat": chat_tab, "Email": email_tab, "Compare": compare_tab}
        tabs |= {"Feedback": feedback_tab} if settings.reviewer_keys else {}
        for name, tab in tabs.items():
            with gr.Tab(name):
                tab(blocks, app)
    blocks.state_session_capacity = SESSIONS
    fonts = {"font": ("system-ui", "sans-serif"), "font_mono": ("ui-monospace", "monospace")}
    gr.mount_gradio_app(
        app,
        blocks,
        "/",
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=max(1, settings.body_bytes - MOST_PAGE),
        theme=gr.themes.Default(**fonts),
        css=STYLES,
        auth=(lambda _, password: is_key(password, settings.api_keys)) if settings.api_keys else None,
        auth_message="Choose a name; the password is a key of this server. Logging out ends every session of a name.",
    )
    # By itself Gradio looks at which files a client names only where its own launch() was called; and it fetches what a
    # URL names, of any size.
    blocks.has_launched = True
    processing_utils.async_ssrf_protected_download = _fetch_nothing
    page = app.router.routes.pop().app  # as a mount it would hide the app's own 404 and 405
    app.state.end_page = page.stop_event.set
    app.state.forget = partial(_forget, page.state_holder)
    nothing, asked = app.router.default, (*OPEN, *(f"/gradio_api/{each}" for each in EVENTS))

    async def rest(scope: Scope, receive: Receive, send: Send) -> None:
        is_page = scope["path"] == "/" or scope["path"].startswith(asked)
        await (Guard(page) if is_page else nothing)(scope, receive, send)

    app.router.default = rest
    return app


async def _fetch_nothing(url: str, cache_dir: str) -> str:
    """Takes what Gradio's own takes."""
    raise UserError(f"{url[:200]}: this server fetches no files; upload it")


def _forget(sessions: Any) -> None:
    """Delete what Gradio holds of pages that nobody used for REMEMBERED seconds."""
    for session, used in list(sessions.time_last_used.items()):
        if (datetime.now() - used).total_seconds() > REMEMBERED:
            sessions.session_data.pop(session, None)
            sessions.time_last_used.pop(session, None)


class Guard:
    """Sends HTML with a policy under which the page can ask no other host."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun: Message = {}
        body = b""

        async def guarded(message: Message) -> None:
            nonlocal begun, body
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *SAFE]
                if dict(message["headers"]).get(b"content-type", b"").startswith(b"text/html"):
                    begun = message  # until its scripts are known
                    return
            elif begun:
                body += message.get("body", b"")
                if message.get("more_body"):
                    return
                header = (b"content-security-policy", policy(body).encode())
                await send(begun | {"headers": [*begun["headers"], header]})
                message["body"] = body
            await send(message)

        if scope["path"].count("/") == 1:  # HTML is to come as it is, not compressed
            scope = scope | {"headers": [each for each in scope["headers"] if each[0] != b"accept-encoding"]}
        await self.app(scope, receive, guarded)


SAFE = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"same-origin")]


def policy(html: bytes) -> str:
    """A Content-Security-Policy that lets the inline scripts of this page run and no others."""
    hashes = dict.fromkeys(b64encode(hashlib.sha256(script).digest()).decode() for script in SCRIPT.findall(html))
    return POLICY.format(scripts=" ".join(f"'sha256-{each}'" for each in hashes))
