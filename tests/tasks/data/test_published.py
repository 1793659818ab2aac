import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import close_session, constants
from loopback import Answer, Asked, serving
from projects import CHATML, publish_small

from llm.chat import Chat
from llm.errors import UserError
from llm.formats.export_huggingface import export_huggingface
from llm.formats.huggingface import load_pretrained
from llm.formats.model_folder import load_model, read_config
from llm.formats.tokenizer_files import read_chat_template
from llm.loaded_model import LoadedModel
from tasks.data.published import (
    PUBLISHED,
    Hub,
    check_published,
    published_tokenizer,
    published_weights,
    save_published,
    weights_digest,
)
from tasks.data.remote import UnreachableError

REPOSITORY, REVISION = "someone/tiny", "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def published(tmp_path_factory, encoding) -> Path:
    """A small model as its makers would publish it."""
    from llm.config import GPTConfig
    from llm.model.gpt import GPT

    folder = tmp_path_factory.mktemp("published")
    torch.manual_seed(3)
    gpt = GPT(GPTConfig(context_length=32, n_layer=2, n_head=2, n_embd=16, vocabulary_size=encoding.n_vocab))
    export_huggingface(folder, LoadedModel(gpt, encoding))
    return folder


@pytest.fixture(scope="module")
def hub(published) -> Iterator[str]:
    """A hub on loopback that serves this one model at one commit."""
    root = f"/{REPOSITORY}/resolve/{REVISION}/"

    def answer(asked: Asked) -> Answer:
        file = published / asked.path.removeprefix(root)
        if not asked.path.startswith(root) or not file.is_file():
            return Answer(404)
        return Answer(200, file.read_bytes(), {"X-Repo-Commit": REVISION, "ETag": f'"{sha256(file)}"'})

    with serving(answer) as url:
        yield url


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture
def get(monkeypatch, tmp_path):
    """Get the model from a hub, into a cache of this test: the folder of its weights, and the tokens of a text."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the tries of the hub's client, half a minute

    def from_hub(endpoint: str, sha256: str | None) -> tuple[Path, list[int]]:
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        )
        monkeypatch.setitem(PUBLISHED, "tiny", Hub(REPOSITORY, REVISION, sha256))
        return published_weights("tiny"), published_tokenizer("tiny").encode("the cat")

    yield from_hub
    close_session()


@pytest.mark.parametrize("pinned", [True, False])
def test_hub_model_is_fetched_once_and_loads(hub, published, encoding, get, pinned):
    digest = sha256(published / "model.safetensors") if pinned else None
    folder, tokens = get(hub, digest)
    assert tokens == encoding.encode("the cat")
    ours, _ = load_pretrained(folder)
    expected, _ = load_pretrained(published)
    assert all(torch.equal(*pair) for pair in zip(ours.parameters(), expected.parameters(), strict=True))
    assert get("http://127.0.0.1:9", digest) == (folder, tokens)


def test_corrupt_weights_of_the_hub_or_its_cache_are_refused(hub, published, get):
    digest = sha256(published / "model.safetensors")
    reason = "^someone/tiny, commit 0123456: the sha256 of model.safetensors is {}, expected is {}$"
    with pytest.raises(UserError, match=reason.format(digest, "0" * 64)):
        get(hub, "0" * 64)
    weights = get(hub, None)[0] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(UserError, match=reason.format(sha256(weights), digest)):
        get("http://127.0.0.1:9", None)


@pytest.mark.parametrize("fetched", [False, True])
def test_unreachable_hub_is_reported_with_the_way_out(hub, get, monkeypatch, fetched):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", True)  # a cache that then knows no hash of what it holds
    if fetched:
        get(hub, None)
    way_out = "set HF_ENDPOINT to a mirror, or init_from to a local folder"
    reason = rf"^someone/tiny, commit 0123456: the hub doesn't give it \(.*; {way_out}$"
    with pytest.raises(UnreachableError, match=reason):
        get("http://127.0.0.1:9", None)


def test_proxy_that_refuses_is_reported_like_the_hub(hub, get, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", hub)  # which knows no CONNECT
    monkeypatch.setenv("NO_PROXY", "")
    close_session()
    with pytest.raises(UnreachableError, match=r"^someone/tiny, commit 0123456: the hub doesn't"):
        get("https://hub.invalid", None)


def test_hub_model_by_its_own_name_brings_its_chat_template(hub, get, published, tmp_path):
    get(hub, None)  # sets the hub
    (published / "chat_template.jinja").write_text(CHATML)
    try:
        assert read_chat_template(published_weights(f"hf:{REPOSITORY}@{REVISION}")) == CHATML
    finally:
        (published / "chat_template.jinja").unlink()


@pytest.mark.parametrize("revision", ["", "@", "@main", "@0123456"])
def test_hub_model_needs_the_commit_that_pins_it(revision):
    with pytest.raises(UserError, match=r"a model of the hub is named by a commit: hf:someone/tiny@ and the 40 digits"):
        check_published(f"hf:{REPOSITORY}{revision}")


def test_own_folder_is_used_in_place_and_identified_by_its_bytes(published, encoding):
    assert published_weights(str(published)) == published
    assert published_tokenizer(str(published)).encode("the dog") == encoding.encode("the dog")
    whole = hashlib.sha256(hashlib.sha256((published / "model.safetensors").read_bytes()).digest()).hexdigest()
    assert weights_digest(published) == whole


def test_unknown_name_is_refused_with_the_known_ones():
    reason = r"^'gpt3' is not one of gpt2-124m, .*smollm2-135m, no hf:OWNER/NAME@COMMIT, and no folder or \.gguf file"
    with pytest.raises(UserError, match=reason):
        published_weights("gpt3")


@pytest.mark.parametrize("template", [CHATML, None])
def test_saved_published_model_has_matrices_in_bfloat16_its_tokenizer_and_template(tmp_path, template):
    source, folder = tmp_path / "published", tmp_path / "model"
    publish_small(source)
    if template is None:
        (source / "chat_template.jinja").unlink()
        (source / "tokenizer_config.json").unlink()
    folder.mkdir()
    save_published(str(source), folder)
    expected, encoding = load_pretrained(source)
    model, tokenizer = load_model(folder, as_stored=True)
    assert model.config == expected.config
    for name, weight in expected.state_dict().items():
        dtype = torch.bfloat16 if weight.ndim > 1 else torch.float32
        assert torch.equal(model.state_dict()[name], weight.to(dtype)), name
        assert model.state_dict()[name].dtype == dtype
    text = "the cat <|im_start|>"
    assert tokenizer.encode(text, allowed_special="all") == encoding.encode(text, allowed_special="all")
    config = read_config(folder)
    assert config["objective"] == "language_model"
    assert config.get("chat") == (None if template is None else Chat(template=CHATML).model_dump())


def test_corrupt_published_template_is_reported_with_its_file(tmp_path):
    publish_small(tmp_path / "published")
    (tmp_path / "published/chat_template.jinja").write_text("{% for %}")
    with pytest.raises(UserError, match=r"published: .*no Jinja template") as caught:
        save_published(str(tmp_path / "published"), tmp_path)
    assert "\n" not in str(caught.value)
