import hashlib
import shutil

import pytest
import torch
from huggingface_hub import close_session, constants
from loopback import Answer, serving
from projects import CHATML, publish_small

from llm.chat import Chat
from llm.errors import UserError
from llm.formats.huggingface import load_pretrained
from llm.formats.model_folder import load_model, read_config
from llm.formats.tokenizer_files import read_chat_template
from tasks.data.published import (
    PUBLISHED,
    Weights,
    check_published,
    published_tokenizer,
    published_weights,
    save_published,
    weights_digest,
)

REPOSITORY, COMMIT = "someone/tiny", "0123456789abcdef0123456789abcdef01234567"
NAME = f"hf:{REPOSITORY}@{COMMIT}"
CLOSED = "http://127.0.0.1:9"


def sha256(file):
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A small model as its makers would publish it."""
    folder = tmp_path_factory.mktemp("published")
    publish_small(folder)
    return folder


@pytest.fixture(scope="module")
def hub(published):
    """A hub on loopback that serves this one model at one commit."""
    root = f"/{REPOSITORY}/resolve/{COMMIT}/"

    def answer(asked):
        file = published / asked.path.removeprefix(root)
        if not asked.path.startswith(root) or not file.is_file():
            return Answer(404)
        return Answer(200, file.read_bytes(), {"X-Repo-Commit": COMMIT, "ETag": f'"{sha256(file)}"'})

    with serving(answer) as url:
        yield url


@pytest.fixture
def go_to(monkeypatch, tmp_path):
    """Name a hub, whose files go into a cache of this test."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the tries of the hub's client, half a minute

    def name_hub(url):
        template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        close_session()

    yield name_hub
    close_session()


def test_hub_model_is_fetched_once_and_loads(hub, published, go_to):
    go_to(hub)
    expected = load_pretrained(published)
    assert published_tokenizer(NAME).encode("the cat") == expected.encoding.encode("the cat")
    folder = published_weights(NAME)
    for name, weight in expected.model.state_dict().items():
        assert torch.equal(load_pretrained(folder).model.state_dict()[name], weight), name
    assert read_chat_template(folder) == CHATML
    go_to(CLOSED)
    assert published_weights(NAME) == folder


@pytest.mark.parametrize("is_right", [True, False])
def test_weights_of_another_hash_are_refused(hub, published, go_to, monkeypatch, is_right):
    go_to(hub)
    digest = sha256(published / "model.safetensors")
    expected = digest if is_right else "0" * 64
    monkeypatch.setitem(PUBLISHED, "tiny", Weights(REPOSITORY, commit=COMMIT, sha256=expected))
    if is_right:
        assert sha256(published_weights("tiny") / "model.safetensors") == digest
        return
    with pytest.raises(UserError, match=rf"^tiny: .*{digest}.*{expected}$"):
        published_weights("tiny")


def test_hub_that_does_not_answer_is_named_with_the_way_out(go_to):
    go_to(CLOSED)
    with pytest.raises(UserError, match=r"^someone/tiny, commit 0123456: .*HF_ENDPOINT"):
        published_weights(NAME)


@pytest.mark.parametrize("name", [f"hf:{REPOSITORY}", f"hf:{REPOSITORY}@main", f"hf:{REPOSITORY}@0123456", "gpt3"])
def test_unknown_name_and_model_without_its_commit_are_refused(name):
    with pytest.raises(UserError, match=r"commit|COMMIT"):
        check_published(name)


def test_own_folder_is_used_in_place_and_identified_by_its_bytes(published):
    assert published_weights(str(published)) == published
    whole = hashlib.sha256(bytes.fromhex(sha256(published / "model.safetensors"))).hexdigest()
    assert weights_digest(published) == whole
    with pytest.raises(UserError, match=r"^missing\.gguf: "):
        published_weights("missing.gguf")


@pytest.mark.parametrize("template", [CHATML, None])
def test_saved_published_model_has_matrices_in_bfloat16_its_tokenizer_and_template(published, tmp_path, template):
    source = shutil.copytree(published, tmp_path / "published")
    folder = tmp_path / "model"
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
    chat = None if template is None else Chat(template=CHATML).model_dump()
    assert read_config(folder).get("chat") == chat


def test_corrupt_published_template_is_reported_with_its_file(published, tmp_path):
    source = shutil.copytree(published, tmp_path / "published")
    (source / "chat_template.jinja").write_text("{% for %}")
    with pytest.raises(UserError, match=r"published: .*template.*$"):
        save_published(str(source), tmp_path)
