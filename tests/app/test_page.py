"""The page as people use it, in a real Chromium, over a real server and a registry of small models."""

import gc
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
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

from app.api.classify import Verdict
from app.page import policy
from app.page_chat import PICTURES, answered
from app.page_email import probability_in_words
from app.quarantine import Quarantine
from app.settings import Settings
from llm.chat import Chat, Message, prompt_tokens
from llm.config import GPTConfig
from llm.formats.model_folder import save_model
from llm.objectives.assistant import Assistant
from llm.tokenizer import end_of_text, train_bpe
from tasks.data.mail import parse_message
from tests.app.conftest import CHARSETS, register, running, tracked, wait_until, write_model
from tests.app.steps import running_texts, stepwise

ARGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
ARGS += ["--disable-component-update", "--disable-sync"]
RUN = "document.title='run'"
BAD = f'**Loud** <b>words</b> <img src=x onerror="{RUN}"><script>{RUN}</script> end here.'
SHOWN = "Loud words end here."
"""How the page shows that."""
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
MAIL = {
    "subject": "A quetzal has won",
    "body": "Free money <b>now</b> | call & claim <script>document.title='run'</script>",
}
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
        opened(page, address)
        yield page
        page.close()


def opened(page: Page, address: str) -> Page:
    page.goto(address)
    expect(page.get_by_label("Version").first).to_have_value(re.compile("assistant/"))
    return page


def fill(field: Locator, text: str) -> None:
    """Write until it stands: Gradio empties a field that it has just drawn."""

    def stands() -> bool:
        field.fill(text)
        field.page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        return field.input_value() == text

    wait_until(stands, LONG / 1000)


def send(page: Page, text: str) -> None:
    box = page.locator("#question textarea")
    expect(box).to_be_enabled()
    fill(box, text)
    box.press("Enter")


def ask(page: Page, text: str) -> str:
    """Ask with Enter, and wait for the answer's end: only then the field can be used again."""
    before = page.get_by_test_id("bot").count()
    send(page, text)
    return finished(page, before + 1)


def finished(page: Page, count: int) -> str:
    """The last of so many answers."""
    expect(page.get_by_test_id("bot")).to_have_count(count)
    expect(page.get_by_role("button", name="Retry")).to_be_enabled()
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    return words(page.locator("[data-testid=bot] .md").all_text_contents()[-1])


def words(text: str) -> str:
    """A text as Markdown is read, with single spaces."""
    return " ".join(re.sub(r"<script.*?</script>|</?[a-z][^>]*>|[*]", " ", text).split())


def by_api(address: str, *turns: str, **more) -> str:
    """The same from /v1."""
    messages = [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(turns)]
    body = {"messages": more.pop("before", []) + messages, "model": "assistant"} | more
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


def choose(page: Page, label: str, version: str) -> None:
    page.get_by_label(label).first.click()
    page.get_by_role("option", name=version).click()


def test_markdown_is_shown_and_html_in_an_answer_can_do_nothing(page, address):
    assert ask(page, "hello") == SHOWN == words(by_api(address, "hello"))
    expect(page.locator("#chat strong")).to_have_text("Loud")
    ask(page, BAD)
    assert page.title() == "Threestage"
    assert page.locator("#chat script, #chat [onerror]").count() == 0


def test_the_version_is_chosen_and_shown_with_its_card(page, address):
    expect(page.get_by_label("Version").first).to_have_value("assistant/1, in use")
    page.get_by_role("button", name="About this version").click()
    expect(page.locator("#card")).to_contain_text("It says one thing.")
    assert page.locator("#card img").count() == 0
    ask(page, "hello")
    choose(page, "Version", "assistant/2, not yet approved")
    expect(page.get_by_test_id("bot")).to_have_count(0)
    assert ask(page, "hello") == words(by_api(address, "hello", model="assistant/2"))


def test_the_settings_are_those_of_the_api(page, address):
    page.get_by_role("button", name="Settings").click()
    assert page.get_by_label("Seed").input_value() == ""
    fill(page.get_by_label("System prompt"), "Be brief.")
    fill(page.get_by_label("number input for Temperature"), "1")
    fill(page.get_by_label("number input for Top p"), "0.9")
    fill(page.get_by_label("number input for Longest answer"), "9")
    fill(page.get_by_label("Seed"), "7")
    page.get_by_label("Seed").press("Tab")
    before = [{"role": "system", "content": "Be brief."}]
    expected = by_api(address, "hello", before=before, temperature=1, top_p=0.9, max_tokens=9, seed=7)
    assert ask(page, "hello") == words(expected) != words(by_api(address, "hello", max_tokens=9))


def test_an_answer_grows_and_stop_gives_its_place_back(page, address):
    with stepwise() as steps:
        send(page, "hello")
        steps.let(6)
        answer = page.locator("[data-testid=bot] .md")
        expect(answer).to_contain_text("Lou")
        steps.let(6)
        expect(answer).to_contain_text("words")
        assert running_texts(address) == 1
        page.get_by_role("button", name="Stop").first.click()
        wait_until(lambda: steps.let(1) or running_texts(address) == 0, 60)  # what is stopped ends at its next step
        expect(page.get_by_role("button", name="Send")).to_be_visible()
    assert "end here" not in answer.inner_text()


def test_who_leaves_gives_the_place_back(page, address):
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


def test_an_example_is_asked_and_a_question_again_with_what_came_before(page, address):
    page.get_by_text("What is the capital of France?").click()
    finished(page, 1)
    choose(page, "Version", "assistant/2, not yet approved")
    expect(page.get_by_test_id("bot")).to_have_count(0)
    page.get_by_role("button", name="Settings").click()
    longest, short = page.get_by_label("number input for Longest answer"), {"model": "assistant/2", "max_tokens": 9}
    fill(longest, "9")
    longest.press("Tab")
    first = by_api(address, "hello", **short)
    assert ask(page, "hello") == words(first)
    assert ask(page, "and then?") == words(by_api(address, "hello", first, "and then?", **short))
    fill(longest, "5")
    longest.press("Tab")
    page.get_by_role("button", name="Retry").click()
    shorter = by_api(address, "hello", first, "and then?", **short | {"max_tokens": 5})
    expect(page.locator("[data-testid=bot] .md").last).to_have_text(words(shorter))


def test_what_people_think_of_an_answer_is_kept(page, kept):
    expect(page.locator(".consent").first).to_contain_text("A training learns from it once a person has accepted it")
    assert page.get_by_role("tab", name="Feedback").count() == 0
    ask(page, "hello")
    page.get_by_role("button", name="Like", exact=True).click()
    expect(page.get_by_text("Thank you, it is kept.")).to_be_visible()
    good = {"instruction": "hello", "output": BAD, "system": "", "history": [], "verdict": "good"}
    (row,) = rows(kept, "instructions")
    assert good.items() <= row.items()
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
    verdict = page.locator("#verdict")
    expect(verdict).to_contain_text(f"The probability of spam is {api['probabilities']['spam']:.1%}; above 50.0%")
    assert verdict.get_by_role("heading").inner_text() == {"ham": "Not spam", "spam": "Spam"}[api["label"]]
    moved = sorted(each["text"].strip() for each in api["moved_by"])
    assert sorted(verdict.locator("strong").all_text_contents()) == moved
    assert verdict.locator("b, script").count() == 0
    assert page.title() == "Threestage"
    page.get_by_role("button", name="Not spam").click()
    expect(page.get_by_text("Thank you, it is kept.")).to_be_visible()
    (row,) = rows(kept, "emails")
    assert (row["label"], row["version"], row["subject"]) == ("ham", "threestage-classifier/1", MAIL["subject"])


def test_what_a_page_showed_is_forgotten_in_time(page, monkeypatch):
    check(page, "A word of its own: quagga", "the cat sat on the mat")
    expect(page.locator("#verdict")).to_contain_text("The probability of spam")

    def holds(holder: StateHolder) -> bool:
        return "quagga" in repr([vars(session) for session in list(holder.session_data.values())])

    (holder,) = (each for each in gc.get_objects() if isinstance(each, StateHolder) and holds(each))
    monkeypatch.setattr("app.page.REMEMBERED", 0)
    wait_until(lambda: not holds(holder), 300)


def test_files_are_classified_as_training_reads_them_and_not_kept(page, address, tmp_path, kept):
    file = tmp_path / "lunch.eml"
    file.write_bytes(EML)
    api = httpx.post(f"{address}/classify/files", files={"files": EML}, timeout=120).json()["verdicts"][0]
    page.get_by_role("tab", name="Email").click()
    upload = page.locator("input[type=file]")
    upload.set_input_files(file)
    verdict = page.locator("#verdict")
    expect(verdict).to_contain_text(f"The probability of spam is {api['probabilities']['spam']:.1%}")
    subject, body = parse_message(EML)
    expect(page.get_by_label("Subject")).to_have_value(subject)
    page.get_by_role("button", name="Not spam").click()
    wait_until(lambda: rows(kept, "emails")[-1]["subject"] == subject, 60)
    row = rows(kept, "emails")[-1]
    assert (row["label"], row["body"]) == ("ham", body)
    (tmp_path / "two.mbox").write_bytes(
        b"".join(b"From a@b.example Thu Jan  1 00:00:00 2026\n%b\n" % EML for _ in "ab")
    )
    upload.set_input_files(tmp_path / "two.mbox")
    expect(verdict.locator("tbody tr")).to_have_count(2)
    expect(verdict.locator("tbody tr").last).to_contain_text(f"{api['probabilities']['spam']:.1%}")
    (tmp_path / "picture.eml").write_bytes(bytes(range(256)) * 9)
    upload.set_input_files(tmp_path / "picture.eml")
    expect(page.get_by_text("It is no text.")).to_be_visible()
    assert [
        *Path(os.environ["GRADIO_TEMP_DIR"]).rglob("*.eml"),
        *Path(os.environ["GRADIO_TEMP_DIR"]).rglob("*.mbox"),
    ] == []


def test_two_versions_are_compared(page, address):
    page.get_by_role("tab", name="Compare").click()
    for side, version in (("Left", "assistant/1"), ("Right", "assistant/2")):  # they come after the page
        expect(page.get_by_label(f"{side} version")).to_have_value(re.compile(version))
    fill(page.locator("#compared-question textarea"), "hello")
    page.get_by_role("button", name="Ask both").click()
    for side, version in (("left", "assistant/1"), ("right", "assistant/2")):
        said = " ".join(words(by_api(address, "hello", model=version)).split())
        expect(page.locator(f"#answer-{side} .md")).to_have_text(said)
    choose(page, "Right version", "assistant/1, in use")
    page.get_by_role("button", name="Ask both").click()
    expect(page.get_by_text("Choose two different versions.")).to_be_visible()


def test_what_can_not_be_answered_has_its_reason_on_the_page(page, address):
    body = {"messages": [{"role": "user", "content": "hello"}], "n": 2, "max_tokens": 2}
    with ThreadPoolExecutor() as threads, stepwise():
        others = threads.submit(httpx.post, f"{address}/v1/chat/completions", json=body, timeout=120)
        wait_until(lambda: running_texts(address) == 2, 60)
        send(page, "hello")
        expect(page.get_by_text("2 requests run or wait already, and at most 2 may; try again in")).to_be_visible()
    assert others.result().status_code == 200
    send(page, "the cat <b> " * 90)
    expect(page.get_by_text("does not fit the context of 256")).to_be_visible()
    ask(page, "hello")
    check(page, "", " ")
    expect(page.get_by_text("There is no text to classify.")).to_be_visible()


def test_no_tab_is_wider_than_a_phone_and_all_have_one_width(page, address):
    tabs, widths = ("Chat", "Email", "Compare"), set()
    for tab in tabs:
        page.get_by_role("tab", name=tab).click()
        expect(page.get_by_role("tab", name=tab)).to_have_attribute("aria-selected", "true")
        widths.add(page.locator(".gradio-container main").bounding_box()["width"])
    assert len(widths) == 1
    page.set_viewport_size(PHONE)
    for tab in tabs:
        page.get_by_role("tab", name=tab).click()
        expect(page.get_by_role("tab", name=tab)).to_have_attribute("aria-selected", "true")
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_no_other_host_is_asked_and_nothing_is_blocked(page, address, seen):
    seen["errors"].clear()
    opened(page, address)
    for tab in ("Email", "Compare", "Chat"):
        page.get_by_role("tab", name=tab).click()
    sent = httpx.get(address, timeout=60, headers={"accept-encoding": "br"})
    assert all(url.startswith((address, "data:", "blob:", "about:")) for url in seen["asked"])
    assert len(seen["asked"]) > 50
    assert [error for error in seen["errors"] if "Security Policy" in error] == []
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
    monkeypatch.setattr("app.page_email.read_mails", lambda paths: read.append(Path(*paths).read_bytes()) or [])
    secret, far = tmp_path / "secret.eml", "http://model.example/mail.eml"
    secret.write_bytes(b"Subject: a secret\n\nof this machine")
    own = httpx.post(f"{address}/gradio_api/upload", files={"files": ("m.eml", EML)}, timeout=60).json()[0]
    config = httpx.get(f"{address}/config", timeout=60).json()
    (upload,) = (each["id"] for each in config["components"] if each["type"] == "uploadbutton")
    for number, named in enumerate((str(secret), far, own)):
        given = {"path": named, "meta": {"_type": "gradio.FileData"}}
        for event in config["dependencies"]:
            if event["queue"] and event["inputs"]:
                files = upload in event["inputs"]
                data = [given if not files or each == upload else None for each in event["inputs"]]
                asked = {"fn_index": event["id"], "data": data, "session_hash": f"s{number}"}
                httpx.post(f"{address}/gradio_api/queue/join", json=asked, timeout=60)
        said = httpx.get(f"{address}/gradio_api/queue/data?session_hash=s{number}", timeout=300).text
        assert "process_completed" in said
        assert "a secret" not in said
    assert secret.exists()  # what is read is removed
    assert set(read) == {EML}
    assert set(fetched) == {far}
    uploads = Path(own).parents[1]
    assert not list(uploads.rglob("secret.eml"))


def test_of_what_gradio_can_do_there_is_only_what_the_page_needs(address):
    for method, prefix, path in product(("GET", "POST"), ("/gradio_api/", "/"), NOT_OPEN):
        answer = httpx.request(method, f"{address}{prefix}{path}", timeout=60)
        if (prefix, path) != ("/", "openapi.json"):  # the app's own
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found"), (prefix, path)


def test_without_a_champion_the_page_says_so(page, store, address):
    client = MlflowClient()
    client.delete_registered_model_alias("threestage-assistant", "champion")
    try:
        shown = page.get_by_label("Version").first
        wait_until(lambda: opened(page, address) and shown.input_value() == "assistant/2, not yet approved", 60)
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
        expect(page.get_by_label("Version").first).to_have_value("assistant/1, in use")
        assert ask(page, "hello") == SHOWN
        assert page.get_by_role("button", name="Like", exact=True).count() == 0
        check(page, **MAIL)
        expect(page.locator("#verdict")).to_contain_text("The probability of spam")
        assert page.get_by_role("button", name="Not spam").count() == 0
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


def test_only_answered_questions_go_on_with_a_conversation():
    turns = [
        {"role": role, "content": [{"type": "text", "text": text}]}
        for role, text in zip(("user", "assistant", "user", "user", "assistant"), "abcde", strict=True)
    ]
    assert [each.content for each in answered(turns)] == ["a", "b", "d", "e"]


def test_a_verdict_in_words_agrees_with_its_label():
    found = Verdict(label="spam", probability=0.464, probabilities={"ham": 0.536, "spam": 0.464})
    text = "The probability of spam is 46.4%; above 41.0% classifier/3 calls a mail spam."
    assert probability_in_words(found, "classifier/3", 0.41) == text
    assert "is 46.40%; above 46.39% classifier/3" in probability_in_words(found, "classifier/3", 0.46391)
    three = Verdict(label="b", probability=0.4, probabilities={"a": 0.3, "b": 0.4, "c": 0.3})
    text = "The probability of b is 40.0%; kinds/1 takes the likeliest label."
    assert probability_in_words(three, "kinds/1", None) == text


def test_pictures_of_a_card_go_with_their_heading():
    assert PICTURES.sub("", "# A\n\n## Pictures\n\n![b](c.svg)\n![d](e.svg)\n\n## F\n") == "# A\n\n## F\n"
