"""Tokenizers of published models, read into encodings that give the very same ids.

GPT-2 and its heirs publish a vocabulary (which id each token has) and an ordered list of merges (which two neighbours
become one, earliest first). tiktoken knows ranks alone: it merges the two neighbours whose token has the lowest id,
whichever two they are. `byte_level_bpe` holds that both do the same, and refuses a vocabulary for which they don't.

Special tokens are never found in people's text here (`encode_ordinary`), and none are put around it.
"""

import json
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import tiktoken
from tiktoken_ext.openai_public import r50k_pat_str

from llm.errors import UserError, UserFileError
from llm.files import read_text
from llm.tokenizer import END_OF_TEXT, FIRST_LACKING, byte_characters, from_onig, make_encoding, to_bytes

GPT2_SPLIT = r50k_pat_str
# Each digit alone, then GPT-2's split of what lies between digits, which sees a digit as the text's end. (Rust counts
# 13 code points of Unicode 17 as digits that `\p{N}` of Unicode 16 doesn't.)
DIGIT_SPLIT = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++|\p{N}| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?![^\s\p{N}])|\s"
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
# `tokenizer.ggml.pre`: the split, and whether a word that is a token as a whole is taken without merging.
GGUF_SPLITS = {
    "gpt-2": (GPT2_SPLIT, False),
    "smollm": (DIGIT_SPLIT, False),
    "starcoder": (DIGIT_SPLIT, False),
    "llama-bpe": (LLAMA3_SPLIT, True),
}
NORMAL, CONTROL, UNUSED = 1, 3, 5  # `tokenizer.ggml.token_type`
AT_ONCE = 4096  # tokens that are merged by themselves: all 49,152 of SmolLM2 at once would take 50 MB more
GPT2_FILES = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))


def byte_level_bpe(
    vocabulary: dict[str, int],
    merges: Iterable[Sequence[str]],
    pattern: str,
    special: dict[str, int],
    *,
    whole_words: bool = False,
) -> tiktoken.Encoding:
    """The encoding of a byte-level BPE whose tokens are spelled in GPT-2's characters for bytes.

    `merges` are pairs, the earliest first; `special` tokens aren't merged, in `vocabulary` or not. With `whole_words` a
    word that is a token is taken as it is. A vocabulary may lack bytes: `PartialEncoding` says what becomes of them.

    Raises UserError, with the token, where ids that are ranks can't give the published ids.
    """
    vocabulary = {token: index for token, index in vocabulary.items() if token not in special}
    merges = [tuple(pair) for pair in merges]
    characters, spelled = byte_characters(), "".join(vocabulary)
    if "" in vocabulary or not characters.issuperset(spelled):
        token = next(token for token in vocabulary if not token or not characters.issuperset(token))
        raise UserError(f"token {token!r} is not spelled in byte-level BPE's characters")
    ids = {*vocabulary.values(), *special.values()}
    if len(ids) < len(vocabulary) + len(special):
        raise UserError("two of its tokens have one id")
    if wrong := [index for index in ids if not 0 <= index < FIRST_LACKING]:
        raise UserError(f"no token can have the id {wrong[0]}")
    for pair in merges:
        if len(pair) != 2 or pair[0] not in vocabulary or pair[1] not in vocabulary or "".join(pair) not in vocabulary:
            raise UserError(f"the merge {' '.join(pair)!r} is not of two tokens to a third")
    made = np.fromiter((vocabulary["".join(pair)] for pair in merges), np.int64)
    if len(late := np.flatnonzero(made[1:] < made[:-1])):
        before, after = (" ".join(pair) for pair in merges[late[0] : late[0] + 2])
        raise UserError(
            f"the merge {after!r} is after {before!r} but makes a lower id: "
            "ids that aren't in the order of merges can't be kept"
        )
    _check_merges(vocabulary, merges, whole_words)
    as_bytes, ends = to_bytes(spelled), [0, *accumulate(map(len, vocabulary))]  # a token by itself takes twice as long
    tokens = (as_bytes[start:end] for start, end in pairwise(ends))
    return make_encoding(pattern, dict(zip(tokens, vocabulary.values(), strict=True)), special)


def _check_merges(vocabulary: dict[str, int], merges: list[tuple[str, ...]], whole_words: bool) -> None:
    """Hold that merging by rank merges nothing that the list of merges doesn't.

    What happens within a token's bytes doesn't depend on what surrounds them, as long as no merge crosses their border.
    So it is enough to merge each token by itself with the published merges. If one token comes out, the last two parts
    before it are the only ones of which rank makes it too. If three or more do, rank never makes it either. But if
    two do, rank would join them.
    """
    letters = byte_characters() & vocabulary.keys()
    rest = [token for token in vocabulary if token not in letters]
    from tokenizers import Tokenizer, models

    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    complete = len(letters) == len(byte_characters())
    for start in range(0, len(rest), AT_ONCE):
        some = rest[start : start + AT_ONCE]
        for token, alone in zip(some, tokenizer.encode_batch_fast(some), strict=True):
            if alone.ids != [vocabulary[token]] and not (len(alone.ids) > 2 and whole_words and complete):
                parts = " ".join(map(tokenizer.id_to_token, alone.ids))
                raise UserError(f"merges make {parts!r} of token {token!r}, which tiktoken would take whole")


def gguf_encoding(metadata: dict[str, Any]) -> tiktoken.Encoding:
    """The encoding in a GGUF file's metadata.

    Raises UserError, with the key, for a tokenizer of another kind or one whose way to split text isn't known.
    """
    kind, split = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
    if kind != "gpt2":
        raise UserError(f"tokenizer.ggml.model is {kind!r}; only 'gpt2', byte-level BPE, is read")
    if split not in GGUF_SPLITS:
        known = ", ".join(map(repr, GGUF_SPLITS))
        raise UserError(f"tokenizer.ggml.pre is {split!r}; known ways to split text are {known}")
    if missing := {"tokens", "token_type", "merges"} - {key.removeprefix("tokenizer.ggml.") for key in metadata}:
        raise UserError(f"tokenizer.ggml.{min(missing)} is missing")
    tokens, kinds, merges = (metadata[f"tokenizer.ggml.{part}"] for part in ("tokens", "token_type", "merges"))
    by_kind = {kind: {} for kind in (NORMAL, CONTROL, UNUSED)}
    for index, (token, kind) in enumerate(zip(tokens, kinds, strict=True)):
        if kind not in by_kind:
            raise UserError(f"tokenizer.ggml.token_type of {token!r} is {kind}: text would have to be searched for it")
        if by_kind[kind].setdefault(token, index) != index:
            raise UserError(f"tokenizer.ggml.tokens holds {token!r} twice")
    pattern, whole_words = GGUF_SPLITS[split]
    pairs = (merge.split(" ") for merge in merges)
    return byte_level_bpe(by_kind[NORMAL], pairs, pattern, by_kind[CONTROL], whole_words=whole_words)


def gpt2_encoding(folder: Path) -> tiktoken.Encoding:
    """GPT-2's encoding from its two files: `encoder.json` and `vocab.bpe`, or `vocab.json` and `merges.txt`.

    tiktoken's own reader of them isn't used: it keeps a copy by path in the temporary folder and reads that ever after.
    Raises UserError for files that don't belong together.
    """
    names = next((pair for pair in GPT2_FILES if (folder / pair[0]).exists()), GPT2_FILES[0])
    vocabulary = json.loads(read_text(folder / names[0]))
    lines = read_text(folder / names[1]).split("\n")
    merges = [line.split(" ") for line in lines[lines[0].startswith("#version") :] if line]
    special = {END_OF_TEXT: vocabulary.get(END_OF_TEXT, len(vocabulary))}
    return byte_level_bpe(vocabulary, merges, GPT2_SPLIT, special)


def read_tokenizer(path: Path, metadata: dict[str, Any] | None = None) -> tiktoken.Encoding:
    """The tokenizer of a published model: a folder that holds one, a `tokenizer.json`, or a GGUF file.

    In a folder `tokenizer.json` comes first, then GPT-2's two files. A GGUF file whose `metadata` are given is not read
    again. Raises UserError, naming the file and the part, for a tokenizer that can't be kept to the last id: one that
    normalises text, WordPiece, Unigram and others.
    """
    if path.is_dir():
        if (path / "tokenizer.json").exists():
            path /= "tokenizer.json"
        elif not any((path / name).exists() for pair in GPT2_FILES for name in pair):
            raise UserError(f"{path} holds no tokenizer: neither tokenizer.json nor vocab.json and merges.txt")
    try:
        if path.is_dir():
            _check_class(path / "tokenizer_config.json")
            return gpt2_encoding(path)
        if path.suffix == ".gguf":
            from llm.formats.gguf import read_gguf  # imports torch, which no other tokenizer needs

            return gguf_encoding(metadata or read_gguf(path)[0])
        return _from_layout(json.loads(read_text(path)))
    except UserFileError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise UserError(f"{path}: {kind}{error}") from None


def read_chat_template(path: Path) -> str | None:
    """The chat template of a published model, a folder or a GGUF file; None where it has none.

    Of several the one named `default`. Raises UserError for files that are none.
    """
    if path.suffix == ".gguf":
        from llm.formats.gguf import read_gguf

        return read_gguf(path)[0].get("tokenizer.chat_template")
    if (path / "chat_template.jinja").exists():
        return read_text(path / "chat_template.jinja")
    file = path / "tokenizer_config.json"
    try:
        found = json.loads(read_text(file)).get("chat_template") if file.exists() else None
        return {each["name"]: each["template"] for each in found}["default"] if isinstance(found, list) else found
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: no chat template ({type(error).__name__}: {error})") from None


def _check_class(path: Path) -> None:
    """Hold that two files without a tokenizer.json are GPT-2's by what tokenizer_config.json says, if there is one."""
    config = json.loads(read_text(path)) if path.exists() else {}
    kind = config.get("tokenizer_class", "GPT2Tokenizer")
    if kind not in ("GPT2Tokenizer", "GPT2TokenizerFast") or config.get("add_prefix_space"):
        raise UserError(
            f"{path.name} says {kind}, add_prefix_space {config.get('add_prefix_space', False)}; not GPT-2's"
        )


def _from_layout(layout: dict[str, Any]) -> tiktoken.Encoding:
    """Hugging Face's tokenizer.json. Its post-processor only adds special tokens, its decoder isn't needed."""
    model, vocabulary = layout["model"], layout["model"]["vocab"]
    if model.get("type", "BPE") != "BPE" or not isinstance(vocabulary, dict):
        raise UserError(f"its model is {model.get('type')}; only BPE is read")
    for part in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if model.get(part):
            raise UserError(f"its model has {part} {model[part]!r}, which would change ids")
    if model.get("unk_token") is not None and not vocabulary.keys() >= byte_characters():
        raise UserError(f"bytes that it lacks become {model['unk_token']!r}; only leaving them out is supported")
    if layout.get("normalizer"):
        raise UserError(f"its normalizer {layout['normalizer'].get('type')} would change text")
    special = {token["content"]: token["id"] for token in layout["added_tokens"]}
    if plain := [token["content"] for token in layout["added_tokens"] if not token["special"]]:
        raise UserError(f"its added token {plain[0]!r} isn't special: text would have to be searched for it")
    merges = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
    pattern, whole_words = _split_pattern(layout["pre_tokenizer"]), bool(model.get("ignore_merges"))
    return byte_level_bpe(vocabulary, merges, pattern, special, whole_words=whole_words)


def _split_pattern(pre_tokenizer: dict[str, Any] | None) -> str:
    match (pre_tokenizer or {}).get("pretokenizers", [pre_tokenizer]):
        case [{"type": "ByteLevel", "add_prefix_space": False, **rest}] if rest.get("use_regex", True):
            return GPT2_SPLIT
        case [
            {"type": "Digits", "individual_digits": True},
            {"type": "ByteLevel", "add_prefix_space": False, **rest},
        ] if rest.get("use_regex", True):
            return DIGIT_SPLIT
        case [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
        ]:
            return from_onig(pattern)
    raise UserError(f"its pre_tokenizer {json.dumps(pre_tokenizer)} is none of those that are read")
