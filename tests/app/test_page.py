"""The page as people use it, in a real Chromium, over a real server and a registry of small models."""

import gc
import html
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import torch
from gradio import processing_utils
from gradio.state_holder import StateHolder
from mlflow import MlflowClient
from playwright.sync_api import Browser, BrowserContext, Error, Locator, Page, expect, sync_playwright
from small_models import TEXT
from torch.nn import functional as F

from app.page import policy
from app.page_chat import PICTURES, as_text, turns
from app.page_email import what_it_is
from app.page_parts import Answering
from app.quarantine import Quarantine
from app.settings import Settings
from llm.applications.assistant import Assistant
from llm.chat import Chat, Message, prompt_tokens
from llm.config import GPTConfig
from llm.formats.model_folder import save_model
from llm.tokenizer import end_of_text, train_bpe
from tasks.data.mail import parse_message
from tests.app.conftest import CHARSETS, register, running, tracked, wait_until, write_model
from tests.app.steps import running_texts, stepwise

ARGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
ARGS += ["--disable-component-update", "--disable-sync"]
BAD = """<img src=x onerror="document.title='run'"><script>document.title='run'</script> & &lt;b&gt;"""
LONG = 120_000
"""Milliseconds that only a hang takes."""
KEY = "a key of this server"
NOT_OPEN = ["file=/etc/passwd", "file//etc/passwd", "proxy=http://127.0.0.1:9/", "stream/a/0/1/playlist-file", "runs"]
NOT_OPEN += [
    "deep_link?session_hash=s0",
    "info",
    "openapi.json",
    "monitoring/summary",
    "process_recording",
    "dev/reload",
]
NOT_OPEN += ["custom_component/x"]
PHONE = {"width": 390, "height": 844}
MAIL = {"subject": "You have won", "body": "Free money <b>now</b> | call & claim <script>document.title='run'</script>"}
EML = CHARSETS["iso-8859-2"]

expect.set_options(timeout=LONG)


def write_parrot(folder: Path) -> Path:
    """An assistant that has learned one thing by heart: to say BAD when it is told hello."""
    torch.manual_seed(1)
    encoding, chat = train_bpe([*TEXT, *[BAD] * 9], 320), Chat(system="You are a test.")
    model = Assistant(
        GPTConfig(context_length=256, n_layer=1, n_head=2, n_embd=64, vocabulary_size=encoding.n_vocab), chat
    )
    prompt = prompt_tokens(encoding, chat, [Message("user", "hello")])
    tokens = torch.tensor([*prompt, *encoding.encode_ordinary(BAD), end_of_text(encoding)])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(300):
        loss = F.cross_entropy(model(tokens[None, :-1])[0, len(prompt) - 1 :], tokens[len(prompt) :])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss < 0.02:
            break
    folder.mkdir(parents=True)
    save_model(folder, model, encoding, "assistant")
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """A registry whose assistant is the parrot, with a card, and has a challenger."""
    folder = tmp_path_factory.mktemp("store")
    with tracked(folder):
        register(write_parrot(folder / "assistant-1/assistant"), "assistant", "champion")
        register(write_model(folder / "assistant-2/assistant", "assistant", 2), "assistant", "challenger")
        register(write_model(folder / "classifier-1/classifier", "classifier", 3), "classifier", "challenger")
        run = MlflowClient().get_model_version("threestage-assistant", "1").run_id
        card = (
            "# The parrot\n\n## Pictures\n\n![loss](../evaluation/evidence/loss.svg)\n\n## Use\n\nIt says one thing.\n"
        )
        MlflowClient().log_text(run, card, "card/card.md")
    return folder


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Path:
    """Where this server keeps feedback."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="module")
def address(store, kept, tmp_path_factory) -> Iterator[str]:
    """A server with the page, on which two texts run or wait at once."""
    settings = Settings(quarantine=kept, rows=1, queue=1, client_share=1, context_length=256, poll_seconds=0.3)
    with pytest.MonkeyPatch.context() as patch, tracked(store):
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
        with running(settings, page=True) as found:
            yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The system's Chromium, or Playwright's own."""
    with sync_playwright() as play:
        path = shutil.which("chromium") or play.chromium.executable_path
        if not Path(path).exists():
            pytest.skip("there is no Chromium: `apt-get install chromium`, or `playwright install chromium`")
        browser = play.chromium.launch(executable_path=path, args=ARGS, timeout=LONG)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def seen() -> dict[str, list[str]]:
    """What the page asked for, and what the browser complained of."""
    return {"asked": [], "errors": []}


@pytest.fixture(scope="module")
def context(browser, seen) -> Iterator[BrowserContext]:
    """One person's browser, with its cache."""
    with browser.new_context() as context:
        context.set_default_timeout(LONG)
        context.on("request", lambda request: seen["asked"].append(request.url))
        context.on("console", lambda said: seen["errors"].append(said.text) if said.type == "error" else None)
        context.on("weberror", lambda error: seen["errors"].append(str(error.error)))
        yield context


@pytest.fixture
def page(context, store, address) -> Iterator[Page]:
    """The page as a newcomer finds it."""
    with tracked(store):
        page = context.new_page()
        page.goto(f"{address}/healthz")  # the same origin, on which nothing writes now
        page.evaluate("localStorage.clear()")
        opened(page, address)
        yield page
        page.close()


@pytest.fixture
def stopped(monkeypatch) -> threading.Event:
    """Set as soon as the server has stopped what it writes for a page."""
    event, stop = threading.Event(), Answering.stopped

    def then(self: Answering, browser: str) -> bool:
        if there := stop(self, browser):
            event.set()
        return there

    monkeypatch.setattr(Answering, "stopped", then)
    return event


def opened(page: Page, address: str) -> Page:
    page.goto(address)
    expect(page.locator("#version")).to_contain_text("threestage-assistant/")
    return page


def ask(page: Page, text: str) -> str:
    """Ask with Enter, and wait for the answer's end."""
    before = page.get_by_test_id("bot").count()
    send(page, text)
    return answered(page, before + 1)[-1]


def answered(page: Page, count: int) -> list[str]:
    """All answers, when there are so many and the last has ended: until then Retry is disabled, even beside Send."""
    expect(page.get_by_test_id("bot")).to_have_count(count)
    expect(page.get_by_role("button", name="Retry")).to_be_enabled()
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    return said(page)


def fill(field: Locator, text: str, write: Callable[[str], None] | None = None) -> None:
    """Write until it stands: Gradio empties a field that it has just drawn."""

    def stands() -> bool:
        (write or field.fill)(text)
        field.page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        return field.input_value() == text

    wait_until(stands, LONG / 1000)


def send(page: Page, text: str) -> None:
    box = page.locator("#question textarea")
    fill(box, text)
    box.press("Enter")


def said(page: Page, who: str = "bot") -> list[str]:
    return page.locator(f"[data-testid={who}] .md").all_text_contents()


def by_api(address: str, *talk: str, **more) -> str:
    """The same from /v1."""
    messages = [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(talk)]
    messages = more.pop("before", []) + messages
    body = {"messages": messages, "model": "assistant"} | more
    answer = httpx.post(f"{address}/v1/chat/completions", json=body, timeout=120).raise_for_status().json()
    return answer["choices"][0]["message"]["content"]


def rows(folder: Path, dataset: str) -> list[dict]:
    waiting = [json.loads(line) for line in (folder / "waiting.jsonl").read_text().splitlines()]
    return [row for row in waiting if row["dataset"] == dataset]


def check(page: Page, subject: str, body: str) -> None:
    page.get_by_role("tab", name="Email").click()
    fill(page.get_by_label("Subject"), subject)
    fill(page.get_by_label("Body"), body)
    page.get_by_role("button", name="Check this mail").click()


def test_html_in_questions_and_answers_is_shown_as_text(page, address):
    assert ask(page, "hello") == BAD == by_api(address, "hello")
    ask(page, f"hello {BAD}")
    assert said(page, "user") == ["hello", f"hello {BAD}"]
    assert page.title() == "Threestage"
    assert page.locator("#chat img, #chat script").count() == 0


def test_who_answers_is_shown_with_its_card(page):
    expect(page.locator("#version")).to_have_text("Answers: threestage-assistant/1, champion")
    page.get_by_role("button", name="Model card").click()
    expect(page.locator("#card")).to_contain_text("It says one thing.")
    assert page.locator("#card h1").text_content().strip() == "The parrot"
    assert page.locator("#card img").count() == 0


def test_the_settings_are_those_of_the_api(page, address):
    page.get_by_role("button", name="Settings").click()
    fill(page.get_by_label("System prompt"), "Be brief.")
    fill(page.get_by_label("number input for Temperature"), "1")
    fill(page.get_by_label("number input for Top p"), "0.9")
    fill(page.get_by_label("number input for Most tokens"), "9")
    fill(page.get_by_label("Seed"), "7")
    page.get_by_label("Seed").press("Tab")
    before = [{"role": "system", "content": "Be brief."}]
    expected = by_api(address, "hello", before=before, temperature=1, top_p=0.9, max_tokens=9, seed=7)
    assert ask(page, "hello") == expected
    assert expected != by_api(address, "hello", max_tokens=9)


def test_an_answer_grows_and_stop_gives_its_place_back(page, address, stopped):
    with stepwise() as steps:
        send(page, "hello")
        steps.let(6)
        answer = page.locator("[data-testid=bot] .md")
        expect(answer).to_contain_text("<")
        begun = said(page)[-1]
        steps.let(4)
        expect(answer).not_to_have_text(begun)
        assert said(page)[-1].startswith(begun)
        assert BAD.startswith(said(page)[-1])
        assert running_texts(address) == 1
        page.get_by_role("button", name="Stop").click()
        assert stopped.wait(60)
        wait_until(lambda: steps.let(1) or running_texts(address) == 0, 60)  # what is stopped ends at its next step
        expect(page.get_by_role("button", name="Send")).to_be_visible()
    assert begun in said(page)[-1] != BAD


def test_who_leaves_gives_the_place_back_and_finds_the_question_again(page, address):
    with stepwise() as steps:
        send(page, "hello")
        steps.let(3)
        expect(page.get_by_test_id("bot")).to_have_count(1)
        assert running_texts(address) == 1
        page.goto("about:blank")

        def ends_soon() -> bool:
            """The server sees that nobody listens when it has something to say."""
            return any(page.wait_for_timeout(50) or running_texts(address) == 0 for _ in range(20))

        assert any(steps.let(1) or ends_soon() for _ in range(19))  # of more than the answer has
    opened(page, address)
    expect(page.locator("#question textarea")).to_have_value("hello")


def test_history_survives_a_reload_and_is_gone_when_it_is_cleared(page, address):
    first = ask(page, "hello")
    second = ask(page, "and then?")
    assert second == by_api(address, "hello", first, "and then?")
    opened(page, address)
    expect(page.get_by_test_id("bot")).to_have_count(2)
    assert said(page, "user") == ["hello", "and then?"]
    assert said(page) == [first, second]
    kept = page.evaluate("localStorage.getItem('threestage-chat')")
    page.get_by_role("button", name="Clear").click()
    page.wait_for_function("kept => localStorage.getItem('threestage-chat') !== kept", arg=kept)
    opened(page, address)
    assert said(page, "user") == []


def test_what_is_cleared_while_it_is_written_does_not_come_back(page, address, stopped):
    with stepwise() as steps:
        send(page, "hello")
        steps.let(3)
        expect(page.get_by_test_id("bot")).to_have_count(1)
        page.get_by_role("button", name="Clear").click()
        assert stopped.wait(60)
        wait_until(lambda: steps.let(1) or running_texts(address) == 0, 60)
        expect(page.get_by_role("button", name="Send")).to_be_visible()
        assert said(page, "user") == []


def test_a_question_is_asked_again_or_changed(page, address):
    page.get_by_text("What is the capital of France?").click()  # an example
    first = answered(page, 1)
    ask(page, "hello")
    page.get_by_role("button", name="Settings").click()
    fill(page.get_by_label("number input for Most tokens"), "5")
    page.get_by_label("number input for Most tokens").press("Tab")
    page.get_by_role("button", name="Retry").click()
    again = by_api(address, "What is the capital of France?", *first, "hello", max_tokens=5)
    expect(page.get_by_test_id("bot")).to_have_text([*first, again])
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    fill(page.get_by_label("number input for Most tokens"), "200")
    page.get_by_label("number input for Most tokens").press("Tab")
    page.get_by_role("button", name="Edit").first.click()
    fill(page.locator("#chat textarea"), "hello")
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_test_id("bot")).to_have_text([BAD])
    assert said(page, "user") == ["hello"]


def test_what_people_say_of_an_answer_is_kept(page, kept):
    expect(page.locator(".consent").first).to_contain_text("a training learns from it once a person has accepted it")
    assert page.get_by_role("tab", name="Feedback").count() == 0
    ask(page, "hello")
    page.get_by_role("button", name="Like", exact=True).click()
    expect(page.get_by_text("Thank you, it is kept.")).to_be_visible()
    said_once = {"instruction": "hello", "output": BAD, "system": "", "history": [], "verdict": "good"}
    (row,) = rows(kept, "instructions")
    assert said_once.items() <= row.items()
    assert row["version"] == "threestage-assistant/1"
    page.get_by_role("button", name="Dislike").click()
    better = page.get_by_label("What should the answer have been?")
    fill(better, "Hello! How can I help?")
    better.press("Enter")
    wait_until(lambda: len(rows(kept, "instructions")) == 3, 60)
    bad, corrected = rows(kept, "instructions")[1:]
    assert (bad["verdict"], bad["output"]) == ("bad", BAD)
    assert (corrected["verdict"], corrected["output"]) == ("good", "Hello! How can I help?")
    expect(better).to_be_hidden()


def test_a_mail_is_classified_explained_and_labelled(page, address, kept):
    api = httpx.post(f"{address}/classify", json={"emails": [MAIL], "explain": 10}, timeout=120).json()["verdicts"][0]
    check(page, **MAIL)
    words = page.locator("#words")
    decides = "threestage-classifier/1 calls a mail spam above 0.500"
    expect(words).to_contain_text(f"Probability of spam: {api['probabilities']['spam']:.3f}; {decides}")
    assert words.get_by_role("heading").inner_text() == api["label"].capitalize()
    assert "%" not in page.locator("#verdict").inner_text()
    shown = [cell.split() for cell in words.locator("td:first-child").all_text_contents()]
    assert shown == [each["text"].split() for each in api["moved_by"]]
    assert page.locator("#words b, #words script").count() == 0
    assert page.title() == "Threestage"
    page.get_by_role("button", name="This is not spam").click()
    expect(page.get_by_text("Thank you, it is kept.")).to_be_visible()
    (row,) = rows(kept, "emails")
    assert (row["label"], row["version"]) == ("ham", "threestage-classifier/1")
    assert row["subject"] == MAIL["subject"]


def test_an_eml_file_is_classified_as_training_reads_it_and_not_kept(page, address, tmp_path, kept):
    file = tmp_path / "lunch.eml"
    file.write_bytes(EML)
    api = httpx.post(f"{address}/classify/files", files={"files": EML}, timeout=120).json()["verdicts"][0]
    page.get_by_role("tab", name="Email").click()
    page.locator("input[type=file]").set_input_files(file)
    expect(page.locator("#words")).to_contain_text(f"Probability of spam: {api['probabilities']['spam']:.3f}")
    assert list(Path(os.environ["GRADIO_TEMP_DIR"]).rglob("*.eml")) == []
    page.get_by_role("button", name="This is not spam").click()
    expect(page.get_by_text("Thank you, it is kept.")).to_be_visible()
    subject, body = parse_message(EML)
    row = rows(kept, "emails")[-1]
    assert (row["label"], row["subject"], row["body"]) == ("ham", subject, body)


def test_an_empty_mail_is_answered_with_a_sentence(page):
    check(page, "", " ")
    expect(page.locator("#verdict")).to_contain_text("There is no text to classify.")


def test_two_versions_are_compared_blind(page, address):
    page.get_by_role("tab", name="Compare").click()
    for which, version in (("One", "assistant/1"), ("Other", "assistant/2")):  # they come after the page
        expect(page.get_by_label(f"{which} version")).to_have_value(re.compile(version))
    box = page.locator("#compared-question textarea")
    fill(box, "hello")
    box.press("Enter")
    vote = page.get_by_role("button", name="A is better")
    expect(vote).to_be_enabled()
    sides = [page.locator(f"#answer-{side} textarea") for side in "AB"]
    answers = [side.input_value() for side in sides]
    assert {page.locator(f"#answer-{side} label").inner_text().strip() for side in "AB"} == {"A", "B"}
    vote.click()
    told = page.locator("#told")
    expect(told).to_contain_text("Votes: assistant/")
    versions = re.findall(r"was (assistant/\d)", told.inner_text())
    assert sorted(versions) == ["assistant/1", "assistant/2"]
    assert answers == [by_api(address, "hello", model=version) for version in versions]
    assert f"Votes: {versions[0]} 1." in told.inner_text()
    expect(vote).to_be_disabled()


def test_a_busy_server_and_a_long_question_are_told_in_a_sentence(page, address):
    body = {"messages": [{"role": "user", "content": "hello"}], "n": 2, "max_tokens": 2}
    with ThreadPoolExecutor() as threads, stepwise():
        others = threads.submit(httpx.post, f"{address}/v1/chat/completions", json=body, timeout=120)
        wait_until(lambda: running_texts(address) == 2, 60)
        send(page, "hello")
        expect(page.get_by_text("2 requests run or wait already, and at most 2 may; try again in")).to_be_visible()
        expect(page.locator("#question textarea")).to_have_value("hello")
        assert said(page) == []
    assert others.result().status_code == 200
    send(page, "the cat <b> " * 90)
    expect(page.get_by_text("does not fit the context of 256")).to_be_visible()


def test_the_keyboard_is_enough(page):
    def typed(text: str) -> None:
        page.keyboard.press("Control+A")
        page.keyboard.type(text)

    expect(page.locator("#question textarea")).to_be_focused()
    fill(page.locator("#question textarea"), "hello", typed)
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("bot")).to_have_text([BAD])
    page.get_by_role("tab", name="Chat").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Subject")).to_be_visible()


def test_no_tab_is_wider_than_a_phone(page, address):
    page.set_viewport_size(PHONE)
    ask(page, "hello")
    check(page, **MAIL)
    expect(page.locator("#words")).to_contain_text("Probability of spam")
    for tab in ("Chat", "Email", "Compare"):
        page.get_by_role("tab", name=tab).click()
        expect(page.get_by_role("tab", name=tab)).to_have_attribute("aria-selected", "true")
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


@pytest.mark.parametrize(("scheme", "dark"), [("light", False), ("dark", True)])
def test_colours_follow_the_system(page, address, scheme, dark):
    page.emulate_media(color_scheme=scheme)
    opened(page, address)
    colours = "e => [getComputedStyle(document.body).backgroundColor, getComputedStyle(e).color]"
    ground, text = (
        sum(map(int, re.findall(r"\d+", colour)[:3])) / 3 for colour in page.locator("#version p").evaluate(colours)
    )
    assert (ground < 60, text > 200) == (dark, dark)
    assert abs(ground - text) > 150


def test_no_other_host_is_asked_and_nothing_is_blocked(page, address, seen):
    for tab in ("Email", "Compare", "Chat"):
        page.get_by_role("tab", name=tab).click()
    sent = httpx.get(address, timeout=60, headers={"accept-encoding": "br"})
    assert all(url.startswith((address, "data:", "blob:", "about:")) for url in seen["asked"])
    assert len(seen["asked"]) > 50
    assert [error for error in seen["errors"] if "Security Policy" in error] == []
    assert not re.search(r"huggingface|googleapis|cdnjs|githubusercontent|(src|href)=.https?:", sent.text)
    assert sent.headers["content-security-policy"] == policy(sent.content)
    assert "'unsafe-inline'" not in sent.headers["content-security-policy"].split("style-src")[0]
    with pytest.raises(Error, match="Failed to fetch"):
        page.evaluate("fetch('http://127.0.0.2:1/')")
    assert any("Security Policy" in error for error in seen["errors"])


def test_the_api_keeps_its_own_errors_beside_the_page(address):
    missing = httpx.get(f"{address}/v1/nothing", timeout=60)
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    assert httpx.get(f"{address}/v1/chat/completions", timeout=60).status_code == 405
    assert httpx.get(f"{address}/healthz", timeout=60).json() == {"status": "ok"}
    assert httpx.get(f"{address}/gradio_api/runs", timeout=60).status_code == 404


def test_what_a_client_names_as_a_file_is_neither_read_nor_fetched(address, tmp_path, monkeypatch):
    read, fetched, fetch = [], [], processing_utils.async_ssrf_protected_download

    async def noted(url, cache_dir):
        fetched.append(url)
        return await fetch(url, cache_dir=cache_dir)

    monkeypatch.setattr(processing_utils, "async_ssrf_protected_download", noted)
    monkeypatch.setattr("app.page_email.message_bytes", lambda content: read.append(content) or b"")
    secret, far = tmp_path / "secret.eml", "http://model.example/mail.eml"
    secret.write_bytes(b"Subject: a secret\n\nof this machine")
    own = httpx.post(f"{address}/gradio_api/upload", files={"files": ("m.eml", EML)}, timeout=60).json()[0]
    events = httpx.get(f"{address}/config", timeout=60).json()["dependencies"]
    for number, named in enumerate((str(secret), far, own)):
        given = {"path": named, "meta": {"_type": "gradio.FileData"}}
        for event in events:
            if event["queue"] and event["inputs"]:
                asked = {"fn_index": event["id"], "data": [given] * len(event["inputs"]), "session_hash": f"s{number}"}
                httpx.post(f"{address}/gradio_api/queue/join", json=asked, timeout=60)
        said = httpx.get(f"{address}/gradio_api/queue/data?session_hash=s{number}", timeout=300).text
        assert "process_completed" in said
        assert "a secret" not in said
    assert secret.exists()  # what is read is removed
    assert set(read) == {EML}
    assert set(fetched) == {far}
    uploads = Path(own).parents[1]
    assert not list(uploads.rglob("secret.eml"))


@pytest.mark.parametrize("path", NOT_OPEN)
def test_of_what_gradio_can_do_there_is_only_what_the_page_needs(address, path):
    for method in ("GET", "POST"):
        for prefix in ("/gradio_api/", "/"):
            answer = httpx.request(method, f"{address}{prefix}{path}", timeout=60)
            if (prefix, path) != ("/", "openapi.json"):  # the app's own
                assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found"), (prefix, path)


def test_what_a_page_showed_is_forgotten_in_time(page, monkeypatch):
    check(page, "A word of its own: quetzal", "the cat sat on the mat")
    expect(page.locator("#words")).to_contain_text("Probability of spam")

    def holds(holder: StateHolder) -> bool:
        return "quetzal" in repr([vars(session) for session in list(holder.session_data.values())])

    (holder,) = (each for each in gc.get_objects() if isinstance(each, StateHolder) and holds(each))
    monkeypatch.setattr("app.page.REMEMBERED", 0)
    wait_until(lambda: not holds(holder), 300)


def test_without_a_champion_the_page_says_so(page, store, address):
    client = MlflowClient()
    client.delete_registered_model_alias("threestage-assistant", "champion")
    try:
        wait_until(lambda: "2, challenger" in opened(page, address).locator("#version").inner_text(), 60)
        opened(page, address)  # once more: the tabs of the last one may have been drawn before and after it was known
        expect(page.locator("#version")).to_contain_text("there is no champion yet")
        page.get_by_role("tab", name="Compare").click()
        expect(page.locator("#champion")).to_contain_text("There is no champion of the assistant yet.")
    finally:
        client.set_registered_model_alias("threestage-assistant", "champion", "1")


def test_keys_lock_the_page_and_feedback_can_be_off_and_reviewers_decide_on_it(browser, store, tmp_path):
    more = {"quarantine": tmp_path, "reviewer_keys": ("a reviewer's key",)}
    settings = Settings(api_keys=("another", KEY), feedback=False, context_length=256, **more)
    waiting = Quarantine(settings)
    waiting.add("emails", {"label": "ham", "subject": "<b>Lunch</b>", "body": "at noon"}, "a network", "m/1")
    with tracked(store), running(settings, page=True) as address, browser.new_context() as context:
        assert httpx.post(f"{address}/gradio_api/queue/join", json={"data": []}, timeout=60).status_code == 401
        assert httpx.get(f"{address}/config", timeout=60).status_code == 401
        assert "threestage-chat" not in httpx.get(address, timeout=60).text
        assert httpx.post(f"{address}/login", data={"username": "me", "password": "a"}, timeout=60).status_code == 400
        page = context.new_page()
        page.set_default_timeout(LONG)
        page.goto(address)
        fill(page.get_by_label("username"), "me")
        fill(page.get_by_label("password"), KEY)
        page.get_by_role("button", name="Login").click()
        expect(page.locator("#version")).to_contain_text("threestage-assistant/1")
        assert ask(page, "hello") == BAD
        assert page.get_by_role("button", name="Like", exact=True).count() == 0
        check(page, **MAIL)
        expect(page.locator("#words")).to_contain_text("Probability of spam")
        assert page.get_by_role("button", name="This is spam").count() == 0
        assert page.locator(".consent").count() == 0
        decide_on_feedback(page, waiting)
        page.close()


def decide_on_feedback(page: Page, waiting: Quarantine) -> None:
    """With a key of the API nobody sees what waits; with a reviewer's a row is chosen and dropped."""
    page.get_by_role("tab", name="Feedback").click()
    line = page.locator("#waiting").get_by_role("gridcell", name="<b>Lunch</b> at noon")
    for key, said in ((KEY, page.get_by_text("This is no reviewer's key.")), ("a reviewer's key", line)):
        fill(page.get_by_label("Reviewer's key"), key)
        page.get_by_role("button", name="Show").click()
        expect(said.first).to_be_visible()
        assert (line.count() > 0) == (key != KEY)
    line.first.click()
    expect(page.get_by_label("Whole text")).to_have_value(re.compile("<b>Lunch</b>\n    at noon"))
    expect(page.get_by_label("Rows")).to_have_value(waiting.waiting()[0].id)
    page.get_by_role("button", name="Drop").click()
    expect(page.get_by_text("1 rows dropped.")).to_be_visible()
    expect(line).to_have_count(0)
    assert waiting.waiting() == []


def test_gradio_is_imported_for_the_page_alone():
    code = "import app.page, sys; assert 'gradio' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_text_that_looks_like_html_comes_back_as_it_was():
    assert as_text("a < b && c > d & e") == "a < b && c > d & e"
    assert as_text("<b>&lt;") == "&lt;b>&amp;lt;"
    for text in (BAD, "a&b &amp; &#60; <!-- x --> </p <?x &", "R&D < 3"):
        assert html.unescape(as_text(text)) == text


def test_only_whole_turns_of_what_a_browser_kept_are_read():
    turn = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert turns([*turn, {"role": "user", "content": "c"}]) == turn
    assert turns([*turn, turn[1], turn[0]]) == turn
    assert turns({"role": "user"}) == turns(None) == turns([{"role": "user", "content": 3}, turn[1]]) == []


def test_a_label_is_said_in_words():
    assert what_it_is(["ham", "spam"]) == ["This is not spam", "This is spam"]
    assert what_it_is(["a", "b", "c"]) == ["This is a", "This is b", "This is c"]


def test_pictures_of_a_card_go_with_their_heading():
    assert PICTURES.sub("", "# A\n\n## Pictures\n\n![b](c.svg)\n![d](e.svg)\n\n## F\n") == "# A\n\n## F\n"
