"""The page as people use it: scenarios in one real Chromium, over a real server and a registry of small models."""

import os
import re
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import expect

from tasks.data.mail import parse_message
from tests.app.conftest import feedback_rows, post, wait_until
from tests.app.guards import POISON, REPLIES
from tests.app.page.browser import (
    BAD,
    EML,
    MAIL,
    SHOWN,
    ask,
    by_api,
    check,
    choose,
    compare,
    expect_text,
    fill,
    finished,
    like,
    open_tab,
    press,
    send,
    setting,
    settled,
    words,
)
from tests.app.steps import is_idle, running_texts, stepwise

pytestmark = pytest.mark.slow
PHONE = {"width": 360, "height": 740}
FOCUSED = """() => {
  const control = document.activeElement;
  if (control === document.body) return null;
  const label = control.labels?.[0]?.querySelector("span")?.innerText;
  const name = control.getAttribute("aria-label") || label || control.title || control.innerText;
  return { name: name.trim(), outline: getComputedStyle(control).outlineStyle, html: control.outerHTML };
}"""
"""The control that has the focus."""
CONTROLS = {
    "Chat": [
        "Version",
        "Like",
        "Dislike",
        "Retry",
        "Your question",
        "Send",
    ],
    "Email": ["Version", "Subject", "Body", "You have won", "Check this mail", "Check a file (.eml)", "Real mail"],
    "Compare": ["Left version", "Right version", "Question for both", "Ask both", "Stop"],
}
"""What Tab reaches, among others."""


def test_chat_tab_answers_and_shows_card_and_settings(page, address):
    assert ask(page, "hello") == SHOWN == words(by_api(address, ["hello"]))
    expect(page.locator("#chat strong")).to_have_text("Loud")
    ask(page, BAD)
    assert page.title() == "Threestage", "no script of an answer or a question ran"
    assert page.locator("#chat script, #chat [onerror]").count() == 0
    press(page, "About this version")
    expect(page.locator("#card")).to_contain_text("It says one thing.")
    assert page.locator("#card img").count() == 0

    choose(page, "Version", "assistant/2, not yet approved")
    expect(page.get_by_test_id("bot")).to_have_count(0)
    page.get_by_text("What is the capital of France?").click()
    finished(page, 1)
    choose(page, "Version", "assistant/1, in use")
    expect(page.get_by_test_id("bot")).to_have_count(0)
    choose(page, "Version", "assistant/2, not yet approved")
    press(page, "Settings")
    assert page.get_by_label("Seed").input_value() == ""
    setting(page, "number input for Longest answer", "9")
    short = {"model": "assistant/2", "max_tokens": 9}
    first = by_api(address, ["hello"], **short)
    assert ask(page, "hello") == words(first)
    second = by_api(address, ["hello", first, "and then?"], **short)
    assert ask(page, "and then?") == words(second)
    setting(page, "System prompt", "Be brief.")
    setting(page, "number input for Temperature", "1")
    setting(page, "number input for Top p", "0.9")
    setting(page, "Seed", "7")
    drawn = short | {"temperature": 1, "top_p": 0.9, "seed": 7, "before": [{"role": "system", "content": "Be brief."}]}
    again = by_api(address, ["hello", first, "and then?"], **drawn)
    press(page, "Retry")
    expect(page.locator("[data-testid=bot] .md").last).to_have_text(words(again))


def test_conversation_survives_a_reload_and_goes_on(page, address):
    first = ask(page, "hello")
    reload_and_reopen(page, "hello")
    expect(page.locator("[data-testid=bot] .md")).to_have_text(first)
    again = words(by_api(address, ["hello", by_api(address, ["hello"]), "hello"]))
    assert ask(page, "hello")[:50] == again[:50]
    expect(page.get_by_test_id("bot")).to_have_count(2)


def reload_and_reopen(page, question):
    """Reload the page and open the conversation that began with a question."""
    conversation = page.get_by_role("gridcell", name=question)
    expect(conversation).to_be_visible()
    page.reload()
    expect(page.get_by_label("Version").first).to_have_value("assistant/1, in use")
    expect(page.get_by_test_id("bot")).to_have_count(0)
    settled(page)
    conversation.click()


def test_streamed_answer_frees_its_place_after_stop_or_when_the_reader_leaves(page, address):
    with stepwise() as steps:
        send(page, "hello")
        steps.let(6)
        answer = page.locator("[data-testid=bot] .md")
        expect(answer).to_contain_text("Lou")
        steps.let(6)
        expect(answer).to_contain_text("words")
        assert running_texts(address) == 1
        page.get_by_role("button", name="Stop").first.click()
        assert ends_within(6, steps=steps, page=page, address=address)
        expect(page.get_by_role("button", name="Send")).to_be_visible()
        assert "end here" not in answer.inner_text()
        send(page, "hello")
        steps.let(3)
        expect(page.get_by_test_id("bot")).to_have_count(2)
        assert running_texts(address) == 1
        page.goto("about:blank")
        assert ends_within(19, steps=steps, page=page, address=address)  # the answer has more steps


def ends_within(count, *, steps, page, address):
    """Let steps go one by one until no text runs: the server sees at a step that nobody listens any more."""
    for _ in range(count):
        steps.let(1)
        for _ in range(20):
            page.wait_for_timeout(50)
            if is_idle(address):
                return True
    return False


def test_errors_are_sentences_on_the_page(page, address):
    body = {"messages": [{"role": "user", "content": "hello"}], "n": 2, "max_tokens": 2}
    with ThreadPoolExecutor() as threads, stepwise():
        others = threads.submit(httpx.post, f"{address}/v1/chat/completions", json=body, timeout=300)

        def are_running() -> bool:
            return running_texts(address) == 2

        wait_until(are_running, 60)
        send(page, "hello")
        expect_text(page, "2 requests run or wait already, and at most 2 may; try again in")
    assert others.result().status_code == 200
    send(page, "the cat <b> " * 90)
    expect_text(page, "does not fit the context of 256")
    ask(page, "hello")
    check(page, "", " ")
    expect_text(page, "There is no text to classify.")


def test_thumbs_and_better_answers_are_kept(page, kept):
    expect(page.locator(".consent").first).to_contain_text("A training learns from it once a person has accepted it")
    assert page.get_by_role("tab", name="Feedback").count() == 0
    ask(page, "hello")
    like(page)
    expect_text(page, "Thank you, it is kept.")
    good = {"instruction": "hello", "output": BAD, "system": "", "history": [], "verdict": "good"}
    good["version"] = "threestage-assistant/1"
    (row,) = feedback_rows(kept, "instructions")
    assert good.items() <= row.items()
    settled(page)
    press(page, "Dislike")
    better = page.get_by_label("What should the answer have been?")
    fill(better, "Hello! How can I help?")
    settled(page)
    better.press("Enter")

    def are_kept() -> bool:
        return len(feedback_rows(kept, "instructions")) == 3

    wait_until(are_kept, 60)
    rows = feedback_rows(kept, "instructions")[1:]
    assert [(row["verdict"], row["output"]) for row in rows] == [("bad", BAD), ("good", "Hello! How can I help?")]
    expect(better).to_be_hidden()


def test_email_tab_classifies_explains_and_labels_mails_and_keeps_no_file(page, address, tmp_path, kept):
    api = post(address, "/classify", {"emails": [MAIL], "explain": 6}).json()["verdicts"][0]
    check(page, **MAIL)
    verdict = page.locator("#verdict")
    share = round(100 * api["probabilities"]["spam"])
    expect(verdict.get_by_role("heading")).to_have_text(f"Not sure ({share} % spam): look at it yourself")
    phrases = re.findall("“(.+?)”", verdict.inner_text())
    assert sorted(phrases) == sorted(phrase["text"] for phrase in api["moved_by"])
    for lead in verdict.locator("strong").all_text_contents():
        assert lead in ("Looks like spam:", "Looks like real mail:")
    assert verdict.locator("a, b, script").count() == 0
    assert page.title() == "Threestage"
    settled(page)
    press(page, "Real mail")
    expect_text(page, "Thank you, it is kept.")
    (row,) = feedback_rows(kept, "emails")
    assert (row["label"], row["version"], row["subject"]) == ("ham", "threestage-classifier/1", MAIL["subject"])

    (tmp_path / "lunch.eml").write_bytes(EML)
    subject, body = parse_message(EML)
    (api,) = post(address, "/classify", {"emails": [{"subject": subject, "body": body}]}).json()["verdicts"]
    upload = page.locator("input[type=file]")
    upload.set_input_files(tmp_path / "lunch.eml")
    expect(verdict.get_by_role("heading")).to_have_text(f"Real mail ({round(100 * api['probability'])} %)")
    expect(page.get_by_label("Subject")).to_have_value(subject)
    settled(page)
    press(page, "Real mail")

    def is_kept() -> bool:
        return len(feedback_rows(kept, "emails")) == 2

    wait_until(is_kept, 60)
    row = feedback_rows(kept, "emails")[-1]
    assert (row["label"], row["subject"], row["body"]) == ("ham", subject, body)
    (tmp_path / "picture.eml").write_bytes(bytes(range(256)) * 9)
    upload.set_input_files(tmp_path / "picture.eml")
    expect_text(page, "It is no text.")
    uploads = Path(os.environ["GRADIO_TEMP_DIR"])
    assert [*uploads.rglob("*.eml")] == []


def test_compare_tab_asks_two_versions_and_all_tabs_fit_a_phone(page, address):
    open_tab(page, "Compare")
    for side, version in (("Left", "assistant/1"), ("Right", "assistant/2")):  # they come after the page
        expect(page.get_by_label(f"{side} version")).to_have_value(re.compile(version))
    answers = {version: by_api(address, ["hello"], model=version) for version in ("assistant/1", "assistant/2")}
    compare(page, "hello")
    for side, version in (("left", "assistant/1"), ("right", "assistant/2")):
        expect(page.locator(f"#answer-{side} .md")).to_have_text(words(answers[version]))
    choose(page, "Right version", "assistant/1, in use")
    press(page, "Ask both")
    expect_text(page, "Choose two different versions.")

    tabs, widths = ("Chat", "Email", "Compare"), set()
    for size, tab in product((page.viewport_size, PHONE), tabs):
        page.set_viewport_size(size)
        open_tab(page, tab)
        expect(page.get_by_role("tab", name=tab)).to_have_attribute("aria-selected", "true")
        widths.add((size["width"], page.locator(".gradio-container main").bounding_box()["width"]))
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    assert len(widths) == 2, "all tabs have one width"


def test_keyboard_alone_is_enough_and_each_control_has_a_name(page):
    tab = page.get_by_role("tab", name="Chat", exact=True)
    page.keyboard.type("hello")  # the field for questions has the focus
    page.keyboard.press("Enter")
    finished(page, 1)
    expect(page.get_by_label("Your question")).to_be_focused()
    for name in ("Chat", "Email", "Compare"):
        tab.focus()
        for _ in range(("Chat", "Email", "Compare").index(name)):
            page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        expect(page.get_by_role("tab", name=name)).to_have_attribute("aria-selected", "true")
        for label in page.locator(".gallery-item:visible, [role=gridcell]:visible").all():
            expect(label).not_to_have_text("")
        names = tabbed(page)
        assert set(CONTROLS[name]) <= set(names), names
    tab.press("Enter")
    like = page.get_by_role("button", name="Like", exact=True)
    like.press("Enter")
    expect_text(page, "Thank you")


def tabbed(page):
    """The names of the controls that Tab reaches from here; each one has a name and shows that it has the focus."""
    names = []
    while True:
        page.keyboard.press("Tab")
        control = page.evaluate(FOCUSED)
        if control is None:
            return names
        assert control["name"], control
        assert control["outline"] == "solid", control
        names.append(control["name"])


def test_guard_replies_stay_marked_after_a_reload_teach_nobody_and_stand_under_both_compared_versions(
    guard, page, kept
):
    before, mark = feedback_rows(kept, "instructions"), "Answered by guard/1, not by the assistant"
    assert ask(page, POISON) == f"{REPLIES['decline']} {mark}"
    reload_and_reopen(page, POISON)
    expect(page.locator("[data-testid=bot] .md p")).to_have_text([REPLIES["decline"], mark])
    like(page)
    expect_text(page, "The guard gave this answer, and the assistant does not learn from it.")
    assert feedback_rows(kept, "instructions") == before
    assert ask(page, "hello") == SHOWN, "the assistant is asked as if nothing had been before"
    open_tab(page, "Compare")
    compare(page, POISON)
    for side in ("left", "right"):
        expect(page.locator(f"#answer-{side} .md p")).to_have_text([REPLIES["decline"], mark])
