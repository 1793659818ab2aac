"""What people do on the page, in a browser, and what they see there."""

import re
import time

from playwright.sync_api import Locator, Page, Request, expect

from tests.app.conftest import CHARSETS, post, talk, wait_until

RUN = "document.title='run'"
BAD = f'**Loud** <b>words</b> <img src=x onerror="{RUN}"><script>{RUN}</script> end here.'
SHOWN = "Loud words end here."
"""How the page shows that."""
LONG = 300_000
"""Milliseconds that only a hang takes."""
MAIL = {
    "subject": "A quetzal has won",
    "body": f"Free money <b>now</b> | call & claim at http://prize.example <script>{RUN}</script>",
}
EML = CHARSETS["iso-8859-2"]
STREAMS: dict[Request, Page] = {}
"""The streams of Gradio's messages that are open."""
expect.set_options(timeout=LONG)


def fill(field: Locator, text: str) -> None:
    """Write until the text stays: Gradio empties a field that it has just drawn."""

    def stays() -> bool:
        field.fill(text)
        field.page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        return field.input_value() == text

    wait_until(stays, LONG / 1000)


def opened(request: Request) -> None:
    if "/queue/data" in request.url:
        STREAMS[request] = request.frame.page


def settled(page: Page) -> None:
    """Wait until Gradio has closed its stream of messages: it can miss those of what is asked just before."""
    deadline = time.monotonic() + LONG / 1000
    while page in STREAMS.values():
        assert time.monotonic() < deadline
        page.wait_for_timeout(20)
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def send(page: Page, text: str) -> None:
    settled(page)
    box = page.locator("#question textarea")
    expect(box).to_be_enabled()
    fill(box, text)
    box.press("Enter")


def ask(page: Page, text: str) -> str:
    """Ask, and wait for the end of the answer."""
    before = page.get_by_test_id("bot").count()
    send(page, text)
    return finished(page, before + 1)


def finished(page: Page, count: int) -> str:
    """The last of so many answers; only after its end the field can be used again."""
    expect(page.get_by_test_id("bot")).to_have_count(count)
    expect(page.get_by_role("button", name="Retry")).to_be_enabled()
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    settled(page)
    return words(page.locator("[data-testid=bot] .md").all_text_contents()[-1])


def words(text: str) -> str:
    """A text as Markdown is read, with single spaces."""
    return " ".join(re.sub(r"<script.*?</script>|</?[a-z][^>]*>|[*]", " ", text).split())


def by_api(address: str, turns: list[str], **options) -> str:
    """The answer of /v1 that the page must give when it asks the same after this.

    It is asked for twice. At first the prompt is read, with AMX in bfloat16, and its keys and values stay in the cache.
    Whoever asks the same later, as this does a second time, has decode.c read the last token alone: same bits then.
    """
    body = {"messages": options.pop("before", []) + talk(turns), "model": "assistant"} | options
    for _ in range(2):
        answer = post(address, "/v1/chat/completions", body).raise_for_status().json()
    return answer["choices"][0]["message"]["content"]


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name).click()


def like(page: Page) -> None:
    page.get_by_role("button", name="Like", exact=True).click()


def open_tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name).click()


def expect_text(page: Page, text: str) -> None:
    expect(page.get_by_text(text)).to_be_visible()


def compare(page: Page, question: str) -> None:
    """Ask both versions of the tab Compare."""
    fill(page.locator("#compared-question textarea"), question)
    press(page, "Ask both")


def check(page: Page, subject: str, body: str) -> None:
    open_tab(page, "Email")
    fill(page.get_by_label("Subject"), subject)
    fill(page.get_by_label("Body"), body)
    settled(page)
    press(page, "Check this mail")


def choose(page: Page, label: str, version: str) -> None:
    settled(page)
    page.get_by_label(label).first.click()
    page.get_by_role("option", name=version).click()
    settled(page)


def setting(page: Page, label: str, value: str) -> None:
    field = page.get_by_label(label)
    fill(field, value)
    field.press("Tab")
