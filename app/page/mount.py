"""The page on the server's own address: its tabs, and the requests of Gradio that it needs.

Its Content-Security-Policy keeps the page from asking another host, whatever HTML an answer brings.
"""

import hashlib
import re
from base64 import b64encode
from pathlib import Path

import gradio as gr
from fastapi import FastAPI
from gradio import processing_utils
from gradio.utils import get_upload_folder
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.schema import error_response
from app.clients import is_key
from app.errors import Unavailable
from app.page.chat import chat_tab
from app.page.compare import compare_tab
from app.page.email import email_tab
from llm.errors import UserError

TITLE = "Threestage"
WELCOME = f"# {TITLE}\nChat with the assistant, check a mail, or compare two versions."
STYLES = """
.gradio-container { width: 100% !important; max-width: 60rem !important; margin: 0 auto; }
#verdict { overflow-wrap: anywhere; }
.gradio-container.gradio-container.gradio-container :focus-visible {
  outline: 3px solid var(--color-accent) !important; outline-offset: -2px;
}
.gradio-container.gradio-container.gradio-container [role=combobox] { outline-offset: 4px; text-overflow: ellipsis; }
.gradio-container [role=combobox] { padding-right: 24px !important; }
[data-testid=bot]:has(small) { border-left: 4px solid var(--color-accent) !important; }
.gradio-container button[role=tab] { padding: 0 clamp(6px, 2vw, 16px) !important; }
.gradio-container .main.fillable { padding: 16px clamp(12px, 3vw, 32px) !important; }
#chat .placeholder-content { padding: 0 16px; }
"""
KEYBOARD = """
// A disabled field loses the focus: after an answer, the field for questions gets it back.
addEventListener("focusin", ({ target }) => {
  if (!target.matches("#question textarea") || target.watched) return;
  target.watched = true;
  new MutationObserver(() => {
    if (!target.disabled && document.activeElement === document.body) target.focus();
  }).observe(target, { attributes: true, attributeFilter: ["disabled"] });
});
// Gradio opens a list of choices again when Tab leaves it.
addEventListener("keydown", (event) => {
  if (["Shift", "Tab"].includes(event.key) && event.target.matches("[role=combobox]")) event.stopPropagation();
}, true);
"""
FONTS = {"font": ("system-ui", "sans-serif"), "font_mono": ("ui-monospace", "monospace")}
FORM_BYTES = 10_000
"""Bytes of a request around the file that it uploads."""
SESSIONS = 200
"""Open pages whose fields, such as the last mail, Gradio keeps in memory."""
HOUR = 3600
POLICY = (
    "default-src 'self'; script-src 'self' {scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; frame-src 'none'; frame-ancestors 'self'; "
    "object-src 'none'; base-uri 'self'; form-action 'self'"
)
"""Gradio sets styles on elements. The page's own inline scripts run, by their hashes, and no others."""
SAFE = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"same-origin")]
SCRIPT = re.compile(rb"<script\b(?![^>]*\bsrc=)[^>]*>(.*?)</script>", re.DOTALL)
FILES = ("/assets/", "/static/", "/theme.css", "/favicon.ico", "/config", "/login", "/logout")
EVENTS = ("run/predict", "queue/join", "queue/data", "heartbeat/", "upload", "cancel", "reset")
"""Gradio's other routes hand out files or keep what a page shows."""
UPLOAD = "/gradio_api/upload"
NEEDED = (*FILES, *(f"/gradio_api/{event}" for event in EVENTS))


def mount_page(app: FastAPI) -> FastAPI:
    """Let the page answer what it needs and no route of the app answers; anything else stays the app's 404.

    If the settings have keys, each is a password of the log-in. An open page keeps a connection, and with it the
    server: `app.state.end_page()` closes them all.
    """
    settings = app.state.settings
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(HOUR, HOUR)) as blocks:
        gr.Markdown(WELCOME)
        tabs = {"Chat": chat_tab, "Email": email_tab, "Compare": compare_tab}
        for name, tab in tabs.items():
            with gr.Tab(name):
                tab(blocks, app)
    blocks.state_session_capacity = SESSIONS
    gr.mount_gradio_app(
        app,
        blocks,
        "/",
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=max(1, settings.body_bytes - FORM_BYTES),
        theme=gr.themes.Default(**FONTS),
        css=STYLES,
        head=f"<script>{KEYBOARD}</script>",
        auth=(lambda _, password: is_key(password, settings.api_keys)) if settings.api_keys else None,
        auth_message="Choose a name; the password is a key of this server. Logging out ends every session of a name.",
    )
    # Gradio checks the files that a client names only after its own launch(), and fetches the URLs that it names.
    blocks.has_launched = True
    processing_utils.async_ssrf_protected_download = _fetch_nothing
    page = app.router.routes.pop().app  # a mount would hide the app's own 404 and 405
    app.state.end_page = page.stop_event.set
    not_found = app.router.default

    with_policy = WithPolicy(page)
    uploads = Uploads(page, settings.body_bytes, settings.upload_bytes)

    async def page_or_not_found(scope: Scope, receive: Receive, send: Send) -> None:
        handler = not_found
        if scope["path"] == "/":
            handler = with_policy
        elif scope["path"].startswith(UPLOAD):
            handler = uploads
        elif scope["path"].startswith(NEEDED):
            handler = page
        await handler(scope, receive, send)

    app.router.default = page_or_not_found
    return app


class Uploads:
    """Refuses a file while as many bytes as may be wait to be read, or may come with requests that upload now."""

    def __init__(self, page: ASGIApp, largest: int, most: int) -> None:
        self.page = page
        self.largest = largest
        self.most = most
        self.running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        files = [path for path in Path(get_upload_folder()).rglob("*") if path.is_file()]
        held = sum(path.stat().st_size for path in files) + self.running * self.largest
        if held + self.largest > self.most:
            error = Unavailable("too many files wait to be read already; try again later", None, "uploads_full")
            return await error_response(error)(scope, receive, send)
        self.running += 1
        try:
            await self.page(scope, receive, send)
        finally:
            self.running -= 1


async def _fetch_nothing(url: str, cache_dir: str) -> str:
    """In place of Gradio's function of these arguments."""
    raise UserError(f"{url[:200]}: this server fetches no files; upload it")


class WithPolicy:
    """Sends the page's HTML with the policy for its scripts."""

    def __init__(self, page: ASGIApp) -> None:
        self.page = page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        messages: list[Message] = []

        async def collect(message: Message) -> None:
            messages.append(message)

        # without compression, as hashes are of what a browser runs
        headers = [(name, value) for name, value in scope["headers"] if name != b"accept-encoding"]
        await self.page({**scope, "headers": headers}, receive, collect)
        html = b"".join(message.get("body", b"") for message in messages)
        header = (b"content-security-policy", policy(html).encode())
        messages[0]["headers"] = [*messages[0]["headers"], *SAFE, header]
        for message in messages:
            await send(message)


def policy(html: bytes) -> str:
    """A Content-Security-Policy that lets the inline scripts of this page run and no others."""
    scripts = [*SCRIPT.findall(html), KEYBOARD.encode()]  # Gradio adds the last one in the browser
    hashes = dict.fromkeys(b64encode(hashlib.sha256(script).digest()).decode() for script in scripts)
    return POLICY.format(scripts=" ".join(f"'sha256-{digest}'" for digest in hashes))
