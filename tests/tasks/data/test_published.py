import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from projects import CHATML, ROOT, environment, publish_small

from llm.chat import Chat
from llm.errors import UserError
from llm.formats.huggingface import export_huggingface, load_pretrained
from llm.formats.model_folder import load_model, read_config
from tasks.data.published import published_tokenizer, published_weights, save_published, weights_digest

pytestmark = pytest.mark.slow

REPOSITORY, REVISION = "someone/tiny", "0123456789abcdef0123456789abcdef01234567"
ASK = """
import json, sys, time
from llm.errors import UserError
from tasks.data import published
time.sleep = lambda seconds: None  # between the tries of the hub's client, half a minute in all
published.PUBLISHED["tiny"] = published.Hub(*json.loads(sys.argv[1]))
try:
    tokens = published.published_tokenizer("tiny").encode("the cat")
    print(json.dumps([str(published.published_weights("tiny")), tokens]))
except UserError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


@pytest.fixture(scope="module")
def published(tmp_path_factory, encoding) -> Path:
    """A small model as its makers would publish it."""
    from llm.config import GPTConfig
    from llm.model.gpt import GPT

    folder = tmp_path_factory.mktemp("published")
    torch.manual_seed(3)
    gpt = GPT(GPTConfig(context_length=32, n_layer=2, n_head=2, n_embd=16, vocabulary_size=encoding.n_vocab))
    export_huggingface(folder, gpt, encoding)
    layout = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "vocab.json").write_text(json.dumps(layout["vocab"]))
    merges = (pair if isinstance(pair, str) else " ".join(pair) for pair in layout["merges"])
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    return folder


@pytest.fixture(scope="module")
def hub(published) -> Iterator[str]:
    """A hub on loopback that serves this one model at one commit."""
    root = f"/{REPOSITORY}/resolve/{REVISION}/"

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, body: bool) -> None:
            file = published / self.path.removeprefix(root)
            if not self.path.startswith(root) or not file.is_file():
                self.send_error(404)
                return
            content = file.read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("X-Repo-Commit", REVISION)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def ask(endpoint: str, cache: Path, sha256: str | None, **variables: str) -> subprocess.CompletedProcess[str]:
    """Get the model in a process that knows no other hub."""
    variables = environment(HF_ENDPOINT=endpoint, HF_HOME=str(cache), HF_HUB_DISABLE_PROGRESS_BARS="1", **variables)
    return subprocess.run(
        [sys.executable, "-c", ASK, json.dumps([REPOSITORY, REVISION, sha256])],
        cwd=ROOT,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize("pinned", [True, False])
def test_a_model_comes_from_the_hub_once_and_loads(hub, published, encoding, tmp_path, pinned):
    digest = sha256(published / "model.safetensors") if pinned else None
    done = ask(hub, tmp_path, digest)
    assert done.returncode == 0, done.stderr
    folder, tokens = json.loads(done.stdout)
    assert tokens == encoding.encode("the cat")
    ours, _ = load_pretrained(Path(folder))
    expected, _ = load_pretrained(published)
    assert all(torch.equal(*pair) for pair in zip(ours.parameters(), expected.parameters(), strict=True))
    again = ask("http://127.0.0.1:9", tmp_path, digest)
    assert again.stdout == done.stdout, again.stderr


def test_weights_with_another_hash_are_refused(hub, published, tmp_path):
    done = ask(hub, tmp_path, "0" * 64)
    assert done.returncode == 1
    found = sha256(published / "model.safetensors")
    reason = f"the sha256 of model.safetensors is {found}, expected is {'0' * 64}"
    assert done.stderr.endswith(f"UserError: someone/tiny, commit 0123456: {reason}\n")


def test_weights_that_changed_in_the_cache_are_refused_with_the_hub_away(hub, tmp_path):
    done = ask(hub, tmp_path, None)
    weights = Path(json.loads(done.stdout)[0]) / "model.safetensors"
    expected = sha256(weights)
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    done = ask("http://127.0.0.1:9", tmp_path, None)
    reason = f"the sha256 of model.safetensors is {sha256(weights)}, expected is {expected}"
    assert done.stderr.endswith(f"UserError: someone/tiny, commit 0123456: {reason}\n")


@pytest.mark.parametrize("fetched", [False, True])
def test_a_hub_that_does_not_answer_is_said_in_a_line_with_the_way_out(hub, tmp_path, fetched):
    linkless = {"HF_HUB_DISABLE_SYMLINKS": "1"}  # a cache that then knows no hash of what it holds
    if fetched:
        assert ask(hub, tmp_path, None, **linkless).returncode == 0
    done = ask("http://127.0.0.1:9", tmp_path, None, **linkless)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("UnreachableError: someone/tiny, commit 0123456: the hub doesn't give it (")
    assert last.endswith("set HF_ENDPOINT to a mirror, or init_from to a local folder")


def test_a_proxy_that_refuses_is_said_like_the_hub(hub, tmp_path):
    done = ask("https://hub.invalid", tmp_path, None, HTTPS_PROXY=hub, NO_PROXY="")  # which knows no CONNECT
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("UnreachableError: someone/tiny, commit 0123456: the hub doesn't")


def test_a_folder_of_ones_own_is_taken_as_it_is_and_known_by_its_bytes(published, encoding):
    assert published_weights(str(published)) == published
    assert published_tokenizer(str(published)).encode("the dog") == encoding.encode("the dog")
    whole = hashlib.sha256(hashlib.sha256((published / "model.safetensors").read_bytes()).digest()).hexdigest()
    assert weights_digest(published) == whole


def test_an_unknown_name_is_refused_with_the_known_ones():
    reason = r"^'gpt3' is not one of gpt2-124m, .*smollm2-135m, and no folder or \.gguf file here"
    with pytest.raises(UserError, match=reason):
        published_weights("gpt3")


@pytest.mark.parametrize("template", [CHATML, None])
def test_a_published_model_is_kept_with_matrices_in_bfloat16_its_tokenizer_and_its_template(tmp_path, template):
    source, folder = tmp_path / "published", tmp_path / "model"
    publish_small(source)
    if template is None:
        (source / "chat_template.jinja").unlink()
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


def test_a_published_template_that_is_none_is_said_with_its_file(tmp_path):
    publish_small(tmp_path / "published")
    (tmp_path / "published/chat_template.jinja").write_text("{% for %}")
    with pytest.raises(UserError, match=r"published: .*no Jinja template") as caught:
        save_published(str(tmp_path / "published"), tmp_path)
    assert "\n" not in str(caught.value)
