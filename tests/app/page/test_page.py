"""The page as people use it: scenarios in one real Chromium, over a real server and a registry of small models."""

import os
import re
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import httpx
import pytest
import torch
from gradio import processing_utils
from mlflow import MlflowClient
from playwright.sync_api import Browser, BrowserContext, Error, Locator, Page, Request, expect, sync_playwright
from small_models import TEXT
from torch.nn import functional as F

from app.api.classify import Verdict
from app.page.chat import conversation
from app.page.email import in_words
from app.page.mount import policy
from app.quarantine import Quarantine
from app.settings import Settings
from llm.chat import Chat, Message, prompt_tokens
from llm.config import GPTConfig
from llm.formats.model_folder import save_model
from llm.loaded_model import LoadedModel
from llm.objectives.assistant import Assistant
from llm.tokenizer import end_of_text, train_bpe
from tasks.data.mail import parse_message
from tests.app.conftest import CHARSETS, register, running, tracked, wait_until, write_model
from tests.app.guards import POISON, REPLIES, write_guard
from tests.app.steps import running_texts, stepwise

pytestmark = pytest.mark.slow

ARGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
ARGS += ["--disable-component-update", "--disable-sync"]
RUN = "document.title='run'"
BAD = f'**Loud** <b>words</b> <img src=x onerror="{RUN}"><script>{RUN}</script> end here.'
SHOWN = "Loud words end here."
"""How the page shows that."""
LONG = 300_000
"""Milliseconds that only a hang takes."""
KEY, REVIEWER = "a key of this server", "a reviewer's key"
NOT_OPEN = (
    *("file=/etc/passwd", "file//etc/passwd", "proxy=http://127.0.0.1:9/", "stream/a/0/1/playlist-file", "runs"),
    *("deep_link?session_hash=s0", "info", "openapi.json", "monitoring/summary", "process_recording", "dev/reload"),
    "custom_component/x",
)
PHONE = {"width": 390, "height": 844}
MAIL = {
    "subject": "A quetzal has won",
    "body": f"Free money <b>now</b> | call & claim at http://prize.example <script>{RUN}</script>",
}
EML = CHARSETS["iso-8859-2"]
CARD = "# The parrot\n\n## Pictures\n\n![loss](../evaluation/evidence/loss.svg)\n\n## Use\n\nIt says one thing.\n"

expect.set_options(timeout=LONG)
STREAMS: dict[Request, Page] = {}
"""The streams of Gradio's messages that are open."""


def write_parrot(folder: Path) -> Path:
    """An assistant that answers hello with BAD, which it learned by heart."""
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
    save_model(folder, LoadedModel(model, encoding), "assistant")
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
        MlflowClient().log_text(run, CARD, "card/card.md")
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
    """The requests of the page, and the complaints of the browser."""
    return {"asked": [], "errors": []}


@pytest.fixture(scope="module")
def context(browser, seen) -> Iterator[BrowserContext]:
    """One person's browser, with its cache."""
    with browser.new_context() as context:
        context.set_default_timeout(LONG)
        context.on("request", lambda request: seen["asked"].append(request.url))
        context.on("request", opened)
        for end in ("requestfinished", "requestfailed"):
            context.on(end, lambda request: STREAMS.pop(request, None))
        context.on("console", lambda said: seen["errors"].append(said.text) if said.type == "error" else None)
        context.on("weberror", lambda error: seen["errors"].append(str(error.error)))
        yield context


@pytest.fixture
def page(context, store, address) -> Iterator[Page]:
    """The page as a newcomer finds it."""
    with tracked(store):
        page = context.new_page()
        page.goto(address)
        expect(page.get_by_label("Version").first).to_have_value("assistant/1, in use")
        yield page
        page.close()


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


def by_api(address: str, *turns: str, **more) -> str:
    """The answer of /v1."""
    messages = [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(turns)]
    body = {"messages": more.pop("before", []) + messages, "model": "assistant"} | more
    answer = httpx.post(f"{address}/v1/chat/completions", json=body, timeout=120).raise_for_status().json()
    return answer["choices"][0]["message"]["content"]


def rows(folder: Path, dataset: str) -> list[dict]:
    return [each.row for each in Quarantine(Settings(quarantine=folder)).waiting() if each.dataset == dataset]


def check(page: Page, subject: str, body: str) -> None:
    page.get_by_role("tab", name="Email").click()
    fill(page.get_by_label("Subject"), subject)
    fill(page.get_by_label("Body"), body)
    settled(page)
    page.get_by_role("button", name="Check this mail").click()


def choose(page: Page, label: str, version: str) -> None:
    settled(page)
    page.get_by_label(label).first.click()
    page.get_by_role("option", name=version).click()
    settled(page)


def setting(page: Page, label: str, value: str) -> None:
    field = page.get_by_label(label)
    fill(field, value)
    field.press("Tab")


def test_a_chat_with_a_version_its_card_and_settings(page, address):
    assert ask(page, "hello") == SHOWN == words(by_api(address, "hello"))
    expect(page.locator("#chat strong")).to_have_text("Loud")
    ask(page, BAD)
    assert page.title() == "Threestage", "no script of an answer or a question ran"
    assert page.locator("#chat script, #chat [onerror]").count() == 0
    page.get_by_role("button", name="About this version").click()
    expect(page.locator("#card")).to_contain_text("It says one thing.")
    assert page.locator("#card img").count() == 0

    choose(page, "Version", "assistant/2, not yet approved")
    expect(page.get_by_test_id("bot")).to_have_count(0)
    page.get_by_text("What is the capital of France?").click()
    finished(page, 1)
    choose(page, "Version", "assistant/1, in use")
    expect(page.get_by_test_id("bot")).to_have_count(0)
    choose(page, "Version", "assistant/2, not yet approved")
    page.get_by_role("button", name="Settings").click()
    assert page.get_by_label("Seed").input_value() == ""
    setting(page, "number input for Longest answer", "9")
    short = {"model": "assistant/2", "max_tokens": 9}
    first = by_api(address, "hello", **short)
    assert ask(page, "hello") == words(first)
    assert ask(page, "and then?") == words(by_api(address, "hello", first, "and then?", **short))
    setting(page, "System prompt", "Be brief.")
    setting(page, "number input for Temperature", "1")
    setting(page, "number input for Top p", "0.9")
    setting(page, "Seed", "7")
    page.get_by_role("button", name="Retry").click()
    drawn = short | {"temperature": 1, "top_p": 0.9, "seed": 7, "before": [{"role": "system", "content": "Be brief."}]}
    again = by_api(address, "hello", first, "and then?", **drawn)
    expect(page.locator("[data-testid=bot] .md").last).to_have_text(words(again))


def test_an_answer_grows_and_its_place_is_free_after_a_stop_or_when_the_reader_leaves(page, address):
    with stepwise() as steps:
        send(page, "hello")
        steps.let(6)
        answer = page.locator("[data-testid=bot] .md")
        expect(answer).to_contain_text("Lou")
        steps.let(6)
        expect(answer).to_contain_text("words")
        assert running_texts(address) == 1
        page.get_by_role("button", name="Stop").first.click()
        wait_until(lambda: steps.let(1) or running_texts(address) == 0, 60)  # it ends at its next step
        expect(page.get_by_role("button", name="Send")).to_be_visible()
        assert "end here" not in answer.inner_text()
        send(page, "hello")
        steps.let(3)
        expect(page.get_by_test_id("bot")).to_have_count(2)
        assert running_texts(address) == 1
        page.goto("about:blank")

        def ends_soon() -> bool:
            """The server sees that nobody listens when it has something to send."""
            return any(page.wait_for_timeout(50) or running_texts(address) == 0 for _ in range(20))

        assert any(steps.let(1) or ends_soon() for _ in range(19))  # the answer has more steps


def test_errors_are_sentences_on_the_page(page, address):
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


def test_thumbs_and_better_answers_are_kept(page, kept):
    expect(page.locator(".consent").first).to_contain_text("A training learns from it once a person has accepted it")
    assert page.get_by_role("tab", name="Feedback").count() == 0
    ask(page, "hello")
    page.get_by_role("button", name="Like", exact=True).click()
    expect(page.get_by_text("Thank you, it is kept.")).to_be_visible()
    good = {"instruction": "hello", "output": BAD, "system": "", "history": [], "verdict": "good"}
    (row,) = rows(kept, "instructions")
    assert good.items() <= row.items()
    assert row["version"] == "threestage-assistant/1"
    settled(page)
    page.get_by_role("button", name="Dislike").click()
    better = page.get_by_label("What should the answer have been?")
    fill(better, "Hello! How can I help?")
    settled(page)
    better.press("Enter")
    wait_until(lambda: len(rows(kept, "instructions")) == 3, 60)
    bad, corrected = rows(kept, "instructions")[1:]
    assert (bad["verdict"], bad["output"]) == ("bad", BAD)
    assert (corrected["verdict"], corrected["output"]) == ("good", "Hello! How can I help?")
    expect(better).to_be_hidden()


def test_mails_and_files_are_classified_explained_labelled_and_no_file_is_kept(page, address, tmp_path, kept):
    api = httpx.post(f"{address}/classify", json={"emails": [MAIL], "explain": 6}, timeout=120).json()["verdicts"][0]
    check(page, **MAIL)
    verdict = page.locator("#verdict")
    share = round(100 * api["probabilities"]["spam"])
    expect(verdict.get_by_role("heading")).to_have_text(f"Not sure ({share} % spam): look at it yourself")
    phrases = re.findall("“(.+?)”", verdict.inner_text())
    assert sorted(phrases) == sorted(each["text"] for each in api["moved_by"])
    for lead in verdict.locator("strong").all_text_contents():
        assert lead in ("Looks like spam:", "Looks like real mail:")
    assert verdict.locator("a, b, script").count() == 0
    assert page.title() == "Threestage"
    settled(page)
    page.get_by_role("button", name="Real mail").click()
    expect(page.get_by_text("Thank you, it is kept.")).to_be_visible()
    (row,) = rows(kept, "emails")
    assert (row["label"], row["version"], row["subject"]) == ("ham", "threestage-classifier/1", MAIL["subject"])

    (tmp_path / "lunch.eml").write_bytes(EML)
    api = httpx.post(f"{address}/classify/files", files={"files": EML}, timeout=120).json()["verdicts"][0]
    upload = page.locator("input[type=file]")
    upload.set_input_files(tmp_path / "lunch.eml")
    expect(verdict.get_by_role("heading")).to_have_text(f"Real mail ({round(100 * api['probability'])} %)")
    subject, body = parse_message(EML)
    expect(page.get_by_label("Subject")).to_have_value(subject)
    settled(page)
    page.get_by_role("button", name="Real mail").click()
    wait_until(lambda: rows(kept, "emails")[-1]["subject"] == subject, 60)
    assert (rows(kept, "emails")[-1]["label"], rows(kept, "emails")[-1]["body"]) == ("ham", body)
    (tmp_path / "picture.eml").write_bytes(bytes(range(256)) * 9)
    upload.set_input_files(tmp_path / "picture.eml")
    expect(page.get_by_text("It is no text.")).to_be_visible()
    uploads = Path(os.environ["GRADIO_TEMP_DIR"])
    assert [*uploads.rglob("*.eml")] == []


def test_two_versions_are_compared_and_all_tabs_fit_a_phone(page, address):
    page.get_by_role("tab", name="Compare").click()
    for side, version in (("Left", "assistant/1"), ("Right", "assistant/2")):  # they come after the page
        expect(page.get_by_label(f"{side} version")).to_have_value(re.compile(version))
    fill(page.locator("#compared-question textarea"), "hello")
    page.get_by_role("button", name="Ask both").click()
    for side, version in (("left", "assistant/1"), ("right", "assistant/2")):
        expect(page.locator(f"#answer-{side} .md")).to_have_text(words(by_api(address, "hello", model=version)))
    choose(page, "Right version", "assistant/1, in use")
    page.get_by_role("button", name="Ask both").click()
    expect(page.get_by_text("Choose two different versions.")).to_be_visible()

    tabs, widths = ("Chat", "Email", "Compare"), set()
    for size, tab in product((page.viewport_size, PHONE), tabs):
        page.set_viewport_size(size)
        page.get_by_role("tab", name=tab).click()
        expect(page.get_by_role("tab", name=tab)).to_have_attribute("aria-selected", "true")
        widths.add((size["width"], page.locator(".gradio-container main").bounding_box()["width"]))
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    assert len(widths) == 2, "all tabs have one width"


@pytest.fixture
def guard(store, address) -> Iterator[None]:
    """A guard in the registry for one test; ask for it before `page`, as Playwright sees nothing while this waits."""

    def asked() -> str | None:
        return httpx.get(f"{address}/readyz", timeout=60).json()["guard"]

    with tracked(store):
        register(write_guard(store / "guard-1/guard"), "guard", "champion")
        wait_until(lambda: asked() == "guard", 120)
    yield
    with tracked(store):
        MlflowClient().delete_registered_model("threestage-guard")
        wait_until(lambda: asked() is None, 120)


def test_a_guards_answers_are_marked_teach_nobody_and_stand_under_both_compared_versions(guard, page, kept):
    before, mark = rows(kept, "instructions"), "Answered by guard/1, not by the assistant"
    assert ask(page, POISON) == f"{REPLIES['decline']} {mark}"
    page.get_by_role("button", name="Like", exact=True).click()
    expect(page.get_by_text("The guard gave this answer, and the assistant does not learn from it.")).to_be_visible()
    assert rows(kept, "instructions") == before
    assert ask(page, "hello") == SHOWN, "the assistant is asked as if nothing had been before"
    page.get_by_role("tab", name="Compare").click()
    fill(page.locator("#compared-question textarea"), POISON)
    page.get_by_role("button", name="Ask both").click()
    for side in ("left", "right"):
        expect(page.locator(f"#answer-{side} .md p")).to_have_text([REPLIES["decline"], mark])


def test_no_other_host_is_asked_and_nothing_of_the_page_is_blocked(page, address, seen):
    seen["errors"].clear()  # such as that of a script in an answer
    page.reload()
    for tab in ("Email", "Compare", "Chat"):
        page.get_by_role("tab", name=tab).click()
    sent = httpx.get(address, timeout=60, headers={"accept-encoding": "br"})
    assert all(url.startswith((address, "data:", "blob:", "about:")) for url in seen["asked"])
    assert len(seen["asked"]) > 50
    assert any("/queue/data" in url for url in seen["asked"]), "`settled` waits for these"
    assert [error for error in seen["errors"] if "Security Policy" in error] == []
    assert sent.headers["content-security-policy"] == policy(sent.content)
    assert "'unsafe-inline'" not in sent.headers["content-security-policy"].split("style-src")[0]
    with pytest.raises(Error, match="Failed to fetch"):
        page.evaluate("fetch('http://127.0.0.2:1/')")
    assert any("Security Policy" in error for error in seen["errors"])


def test_keys_lock_the_page_feedback_can_be_off_and_reviewers_decide_on_it(browser, store, tmp_path):
    more = {"quarantine": tmp_path, "reviewer_keys": (REVIEWER,)}
    settings = Settings(api_keys=("another", KEY), feedback=False, context_length=256, **more)
    waiting = Quarantine(settings)
    waiting.add("emails", {"label": "ham", "subject": "<b>Lunch</b>", "body": "at noon"}, "a network", "m/1")
    with tracked(store), running(settings, page=True) as address, browser.new_context() as context:
        assert httpx.post(f"{address}/gradio_api/queue/join", json={"data": []}, timeout=60).status_code == 401
        assert httpx.get(f"{address}/config", timeout=60).status_code == 401
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
        expect(page.locator("#verdict")).to_contain_text("Looks like")
        assert page.get_by_role("button", name="Real mail").count() == 0
        assert page.locator(".consent").count() == 0

        page.get_by_role("tab", name="Feedback").click()
        line = page.locator("#waiting").get_by_role("gridcell", name="<b>Lunch</b> at noon")
        for key, shown in ((KEY, page.get_by_text("This is no reviewer's key.")), (REVIEWER, line)):
            fill(page.get_by_label("Reviewer's key"), key)
            page.get_by_role("button", name="Show").click()
            expect(shown.first).to_be_visible()
            assert (line.count() > 0) == (key == REVIEWER)
        line.first.click()
        expect(page.get_by_label("Whole text")).to_have_value(re.compile("<b>Lunch</b>\n    at noon"))
        expect(page.get_by_label("Rows")).to_have_value(waiting.waiting()[0].id)
        page.get_by_role("button", name="Drop").click()
        expect(page.get_by_text("1 rows dropped.")).to_be_visible()
        expect(line).to_have_count(0)
        assert waiting.waiting() == []
        page.close()


# ---- without a browser


def test_the_api_keeps_its_own_errors_and_gradio_answers_only_what_the_page_needs(address):
    missing = httpx.get(f"{address}/v1/nothing", timeout=60)
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    assert httpx.get(f"{address}/v1/chat/completions", timeout=60).status_code == 405
    assert httpx.get(f"{address}/healthz", timeout=60).json() == {"status": "ok"}
    with httpx.Client(base_url=address, timeout=60) as client:
        for method, prefix, path in product(("GET", "POST"), ("/gradio_api/", "/"), NOT_OPEN):
            answer = client.request(method, f"{prefix}{path}")
            if (prefix, path) != ("/", "openapi.json"):  # the app's own
                assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found"), (prefix, path)


def test_a_file_that_a_client_names_is_neither_read_nor_fetched(address, tmp_path, monkeypatch):
    read, fetched, fetch = [], [], processing_utils.async_ssrf_protected_download

    async def noted(url, cache_dir):
        fetched.append(url)
        return await fetch(url, cache_dir=cache_dir)

    monkeypatch.setattr(processing_utils, "async_ssrf_protected_download", noted)
    monkeypatch.setattr("app.page.email.read_mails", lambda paths: read.append(Path(*paths).read_bytes()) or [])
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
    assert secret.exists()  # a file that is read is removed
    assert set(read) == {EML}
    assert set(fetched) == {far}
    assert not list(Path(own).parents[1].rglob("secret.eml"))


def test_only_answered_questions_go_on_with_a_conversation():
    turns = [
        {"role": role, "content": [{"type": "text", "text": text}]}
        for role, text in zip(("user", "assistant", "user", "user", "assistant"), "abcde", strict=True)
    ]
    assert [each.content for each in conversation(" ", turns)] == ["a", "b", "d", "e"]
    assert conversation("Be brief.", [])[0] == Message("system", "Be brief.")


@pytest.mark.parametrize(
    ("label", "probabilities", "text"),
    [
        ("spam", {"ham": 0.03, "spam": 0.97}, ["Spam (97 %)"]),
        ("ham", {"ham": 0.99999, "spam": 0.00001}, ["Real mail (99 %)"]),
        ("unsure", {"ham": 0.42, "spam": 0.58}, ["Not sure (58 % spam): look at it yourself"]),
        (
            "spam",
            {"ham": 0.59, "spam": 0.41},
            ["Spam (41 %)", "This version calls a mail spam even below 50 %, so that it misses less."],
        ),
        (
            "ham",
            {"ham": 0.3, "spam": 0.7},
            ["Real mail (30 %)", "This version calls a mail spam only when it is surer, to spare other mail."],
        ),
        ("work", {"home": 0.28, "work": 0.44, "spam": 0.28}, ["Work (44 %)", "Nothing else is likelier."]),
    ],
)
def test_a_verdict_in_words_agrees_with_its_label(label, probabilities, text):
    probability = probabilities.get(label)
    assert in_words(Verdict(label=label, probability=probability, probabilities=probabilities)) == text
