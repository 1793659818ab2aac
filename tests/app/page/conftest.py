"""A server with the page, its registry, and one Chromium for all scenarios."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from playwright.sync_api import BrowserContext, ConsoleMessage, Page, WebError, expect
from small_models import TEXT
from torch.nn import functional as F

from app.settings import Settings
from llm.chat import Chat, Message, prompt_tokens
from llm.config import GPTConfig
from llm.formats.model_folder import save_model
from llm.loaded_model import LoadedModel
from llm.objectives.assistant import Assistant
from llm.tokenizer import end_of_text, train_bpe
from tests.app.conftest import readiness, register, running, tracked, wait_until, write_model
from tests.app.guards import write_guard
from tests.app.page.browser import BAD, LONG, STREAMS, opened

CARD = "# The parrot\n\n## Pictures\n\n![loss](../evaluation/evidence/loss.svg)\n\n## Use\n\nIt says one thing.\n"


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
        MlflowClient().log_text(run, CARD, "card.md")
    return folder


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Path:
    """Where this server keeps feedback."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="module")
def address(store, kept, tmp_path_factory) -> Iterator[str]:
    """A server with the page, on which two texts run or wait at once."""
    settings = Settings(quarantine=kept, rows=1, queue=1, context_length=256, poll_seconds=0.3)
    with pytest.MonkeyPatch.context() as patch, tracked(store):
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
        with running(settings, page=True) as url:
            yield url


@pytest.fixture(scope="module")
def seen() -> dict[str, list[str]]:
    """The requests of the page, and the complaints of the browser."""
    return {"asked": [], "errors": []}


@pytest.fixture(scope="module")
def context(browser, seen) -> Iterator[BrowserContext]:
    """One person's browser, with its cache."""

    def note_console(message: ConsoleMessage) -> None:
        if message.type == "error":
            seen["errors"].append(message.text)

    def note_error(error: WebError) -> None:
        seen["errors"].append(str(error.error))

    with browser.new_context() as context:
        context.set_default_timeout(LONG)
        context.on("request", lambda request: seen["asked"].append(request.url))
        context.on("request", opened)
        for end in ("requestfinished", "requestfailed"):
            context.on(end, lambda request: STREAMS.pop(request, None))
        context.on("console", note_console)
        context.on("weberror", note_error)
        yield context


@pytest.fixture
def page(context, store, address) -> Iterator[Page]:
    """The page as a newcomer finds it."""
    with tracked(store):
        page = context.new_page()
        page.goto(address)
        expect(page.get_by_label("Version").first).to_have_value("assistant/1, in use")
        yield page
        page.evaluate("location.protocol.startsWith('http') && localStorage.clear()")
        page.close()


@pytest.fixture
def guard(store, address) -> Iterator[None]:
    """A guard in the registry for one test; ask for it before `page`, as Playwright sees nothing while this waits."""

    def is_there() -> bool:
        return readiness(address)["guard"] == "guard"

    def is_gone() -> bool:
        return readiness(address)["guard"] is None

    with tracked(store):
        register(write_guard(store / "guard-1/guard"), "guard", "champion")
        wait_until(is_there, 120)
    yield
    with tracked(store):
        MlflowClient().delete_registered_model("threestage-guard")
        wait_until(is_gone, 120)
