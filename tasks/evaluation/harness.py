"""Our models on other people's benchmarks, by EleutherAI's lm-evaluation-harness (Gao et al. 2024).

    python -m tasks.evaluation.harness --model threestage --model_args path=models/assistant --tasks arc_easy \
        --apply_chat_template --batch_size 16

The command is the harness's own, and knows one kind of model more. `path` is a model folder or a registered model such
as models:/threestage-assistant@champion. A conversation is in the model's own template and system prompt.

The harness speaks text, and a chat is more: only what the template writes is a special token, and each turn is cut into
tokens by itself. A prompt says so in two characters that nobody types, BEGIN NAME END for the special token NAME and
BEGIN END where a turn begins or ends; a turn's own text loses them. Plain contexts hold no special tokens.
"""

import logging
import re
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from llm.applications import load
from llm.chat import Chat, Message, encode_chat, start_of_text, turn_ends
from llm.dataset import pad
from llm.device import Compute, choose_compute
from llm.errors import UserError
from llm.formats.model_folder import CONFIG, TOKENIZER, read_config
from llm.generation.engine import Engine, Request
from llm.generation.packed import pack_for_inference
from llm.generation.sampling import Sampling
from llm.generation.text import TextStream
from llm.model.gpt import GPT
from llm.tokenizer import decode, end_of_text, stop_tokens
from tasks.registry.tracking import configure_tracking
from tasks.stages.hashes import digest, md5_of

try:
    from lm_eval.__main__ import cli_evaluate
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.models.utils import normalize_gen_kwargs
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ModuleNotFoundError as error:
    if __name__ != "__main__" or error.name != "lm_eval":
        raise
    sys.exit("the harness is not installed: pip install -e '.[lm-eval]'")

BEGIN, END = "\ue000", "\ue001"
MARKED = re.compile(f"{BEGIN}([^{BEGIN}{END}]*){END}")
BATCH = 16  # rows, where the harness is told `auto`
LOGITS = 1024  # positions whose logits are in memory at once
SAMPLED = ("temperature", "top_k", "top_p", "min_p")

logger = logging.getLogger(__name__)

Pair = tuple[tuple[str, str] | None, list[int], list[int]]
"""The texts of a context and its continuation (None for a window of a longer text), and their tokens."""


def model_folder(path: str) -> Path:
    """The model folder that a path names, or that the registry keeps as `models:/NAME@ALIAS` or `models:/NAME/VERSION`.

    Raises UserError where the registry has no such model.
    """
    if not path.startswith("models:/"):
        return Path(path)
    import mlflow
    from mlflow.exceptions import MlflowException

    configure_tracking()
    try:
        copy = Path(mlflow.artifacts.download_artifacts(path))
    except MlflowException as error:
        raise UserError(f"{path}: {' '.join(str(error).split())}") from None
    found = sorted(file.parent for file in copy.glob(f"artifacts/*/{CONFIG}"))
    if len(found) != 1:
        raise UserError(f"{path}: no model of this project's, which holds one artifacts/<model>/{CONFIG}")
    return found[0]


@register_model("threestage")
class Threestage(TemplateLM):
    """A model folder as the harness sees it. Raises UserError for one that is no language model."""

    def __init__(
        self,
        path: str,
        batch_size: int | str = 1,
        device: str | None = None,
        dtype: str = "auto",
        max_length: int | None = None,
        max_gen_toks: int = 256,
        max_batch_size: int | None = None,
    ) -> None:
        """`dtype` is `auto`, as the model is served, or `float32`; `max_length` may shorten the context.

        `max_gen_toks` bounds texts of tasks that say nothing of it. `batch_size` may be `auto`; `max_batch_size` is the
        harness's, and bounds that.
        """
        super().__init__()
        if dtype not in ("auto", "float32"):
            raise UserError(f"dtype {dtype!r} is not one of auto, float32")
        folder = model_folder(path)
        self.compute = choose_compute() if device is None else _named_device(device)
        config = read_config(folder)
        self.model, self.encoding = load(folder, self.compute.device)
        if not isinstance(self.model, GPT):
            raise UserError(
                f"{path}: the harness asks for text, and a model of objective {config['objective']} has none"
            )
        if dtype == "auto":
            pack_for_inference(self.model)
        self.mixed = dtype == "auto" and self.compute.device.type != "cpu"
        self.chat = Chat.model_validate(config["chat"]) if "chat" in config else None
        context_length = self.model.config.context_length
        self.max_length = context_length if max_length is None else max_length
        if not 1 <= self.max_length <= context_length:
            raise UserError(f"max_length {max_length} is not within the model's context of {context_length}")
        self.max_gen_toks = max_gen_toks
        self.batch_size = (max_batch_size or BATCH) if str(batch_size).startswith("auto") else int(batch_size)
        self.ends = turn_ends(self.encoding, self.chat) if self.chat else stop_tokens(self.encoding)
        self.path, self.folder = path, folder
        self._device = self.compute.device

    @property
    def eot_token_id(self) -> int:
        """The token that ends a document."""
        return end_of_text(self.encoding)

    @property
    def prefix_token_id(self) -> int:
        """The token before a text that has no context: what begins a text, or ends the one before."""
        start = start_of_text(self.encoding)
        return self.encoding.encode_single_token(start) if start else self.eot_token_id

    @property
    def tokenizer_name(self) -> str:
        """Names tokenizer and template in the harness's cache of requests: other ones make other requests."""
        return digest([md5_of(self.folder / TOKENIZER), self.chat and self.chat.model_dump()])[:16]

    def get_model_info(self) -> dict[str, Any]:
        """What the harness's results say of the model: the MD5 is that of dvc.lock."""
        numbers = sum(weight.numel() for weight in self.model.parameters())
        where = str(self.compute)
        return {"path": self.path, "model_md5": md5_of(self.folder), "model_num_parameters": numbers, "compute": where}

    def chat_template(self, chat_template: bool | str = False) -> str:
        """The template, for the harness's results."""
        return self.chat.template if self.chat else ""

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as text, which `tok_encode` turns into the tokens that the model would be asked with.

        Without `add_generation_prompt` the assistant's last turn stays open, and an answer goes on from it. Raises
        UserError for a model without a template, and for turns that it can't say.
        """
        if self.chat is None:
            raise UserError(f"{self.path} has no chat template: leave out --apply_chat_template")
        clean = str.maketrans("", "", BEGIN + END)
        messages = [Message(each["role"], each["content"].translate(clean)) for each in chat_history]
        begun = "" if add_generation_prompt else messages.pop().content
        parts = encode_chat(self.encoding, self.chat, messages, to_answer=True)
        return "".join(self._marked(part.tokens) + BEGIN + END for part in parts) + begun

    def _marked(self, tokens: Sequence[int]) -> str:
        """The text of tokens, with each special one between marks."""
        names = {token: f"{BEGIN}{name}{END}" for name, token in self.encoding._special_tokens.items()}
        runs = groupby(tokens, names.get)
        return "".join(name * len([*run]) if name else decode(self.encoding, run) for name, run in runs)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Tokens of a text, or of a conversation from `apply_chat_template`. Nothing is added in front."""
        special = self.encoding._special_tokens
        tokens: list[int] = []
        for place, part in enumerate(MARKED.split(string)):
            if place % 2 == 0:
                tokens += self.encoding.encode_ordinary(part)
            elif part:
                tokens += [special[part]] if part in special else self.encoding.encode_ordinary(part)
        return tokens

    def _autocast(self) -> AbstractContextManager:
        return self.compute.autocast() if self.mixed else nullcontext()

    def _loglikelihood_tokens(
        self, requests: list[Pair], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        """For each pair the log-probability of the continuation, in nats, and whether each of its tokens is likeliest.

        A pair longer than the context loses its beginning. Raises UserError for a continuation without a token of its
        own, and for one that leaves no room for any context.
        """
        rows = [self._row(*pair) for pair in requests]
        self._warn(sum(len(pair[1]) + len(pair[2]) > self.max_length + 1 for pair in requests))
        order = sorted(range(len(rows)), key=lambda number: -len(rows[number][0]))
        found: dict[int, tuple[float, bool]] = {}
        with tqdm(desc="log-likelihood", total=len(rows), unit="row", disable=disable_tqdm) as bar:
            for first in range(0, len(order), self.batch_size):
                batch = order[first : first + self.batch_size]
                for number, answer in zip(batch, self._score([rows[number] for number in batch]), strict=True):
                    found[number] = answer
                    if requests[number][0] is not None:
                        self.cache_hook.add_partial("loglikelihood", requests[number][0], answer)
                bar.update(len(batch))
        return [found[number] for number in range(len(rows))]

    def _row(self, texts: tuple[str, str] | None, context: list[int], continuation: list[int]) -> tuple[list[int], int]:
        """The last tokens that the context has room for, the last of which is only predicted; how many are scored."""
        said = f"the continuation {texts[1]!r}" if texts else "a window"
        if not continuation:
            raise UserError(f"{said} has no token of its own: it is empty, or one token spans its context's end and it")
        if len(continuation) > self.max_length:
            raise UserError(f"{said} has {len(continuation)} tokens, and the context is {self.max_length}")
        return ((context or [self.prefix_token_id]) + continuation)[-(self.max_length + 1) :], len(continuation)

    @torch.inference_mode()
    def _score(self, batch: Sequence[tuple[list[int], int]]) -> list[tuple[float, bool]]:
        tokens_BT, _ = pad([tokens[:-1] for tokens, _ in batch], 0)
        # positions before the scored tokens, which predict them: `count` ends of each row but its padding
        places = [(row, len(tokens) - 1 - count + n) for row, (tokens, count) in enumerate(batch) for n in range(count)]
        rows_N, columns_N = torch.tensor(places).T
        targets_N = torch.tensor([token for tokens, count in batch for token in tokens[-count:]])
        scores, greedy = [], []
        with self._autocast():
            x_NC = self.model.features(tokens_BT.to(self.device))[rows_N.to(self.device), columns_N.to(self.device)]
            for x_LC, targets_L in zip(x_NC.split(LOGITS), targets_N.to(self.device).split(LOGITS), strict=True):
                logits_LV = self.model.logits(x_LC).float()
                chosen_L = logits_LV.gather(1, targets_L[:, None])[:, 0]
                scores.append((chosen_L - logits_LV.logsumexp(dim=1)).cpu())
                greedy.append((logits_LV.argmax(dim=1) == targets_L).cpu())
        counts = [count for _, count in batch]
        parts = zip(torch.cat(scores).split(counts), torch.cat(greedy).split(counts), strict=True)
        return [(part.double().sum().item(), bool(each.all())) for part, each in parts]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """The log-probability of whole texts, in nats: windows of the context's length that do not overlap."""
        windows: list[list[Pair]] = []
        for request in requests:
            tokens = self.tok_encode(*request.args)
            parts = get_rolling_token_windows(tokens, self.prefix_token_id, self.max_length, context_len=1)
            windows.append([(None, *make_disjoint_window(part)) for part in parts])
        scores = iter(self._loglikelihood_tokens([each for part in windows for each in part], disable_tqdm))
        totals = [sum(next(scores)[0] for _ in part) for part in windows]
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Texts that end at a stop string, at what ends a text or a turn, or after their number of tokens.

        A context that leaves no room for that number loses its beginning. Raises UserError where none would be left,
        and for an option that there is not.
        """
        asked = [self._request(*each.args) for each in requests]
        if not asked:
            return []
        self._warn(sum(cut for *_, cut in asked))
        order = sorted(range(len(asked)), key=lambda number: -len(asked[number][0].prompt))
        longest = max(len(request.prompt) + request.max_new_tokens for request, *_ in asked)
        engine = Engine(self.model, min(len(asked), self.batch_size), longest)
        running = {engine.submit(asked[number][0]): number for number in order}
        texts = [""] * len(asked)
        with self._autocast(), tqdm(desc="texts", total=len(asked), unit="row", disable=disable_tqdm) as bar:
            while engine.busy:
                for event in engine.step():
                    number = running[event.handle]
                    stream = asked[number][1]
                    if event.token is not None:
                        texts[number] += stream.feed(event.token)
                    if stream.stopped and not event.ended:
                        engine.cancel(event.handle)
                    if event.ended:
                        texts[number] += stream.finish()
                        self.cache_hook.add_partial("generate_until", requests[number].args, texts[number])
                        bar.update()
        return texts

    def _warn(self, cut: int) -> None:
        if cut:
            logger.warning("%d contexts lose their beginning: the model's has room for %d tokens", cut, self.max_length)

    def _request(self, context: str, options: dict[str, Any]) -> tuple[Request, TextStream, bool]:
        """What the engine is asked, where its text stops, and whether the context lost its beginning."""
        values: dict[str, Any] = dict(normalize_gen_kwargs(options, self.max_gen_toks))
        new, until, sample = (values.pop(name) for name in ("max_gen_toks", "until", "do_sample"))
        if unknown := values.keys() - Sampling.model_fields.keys():
            known = ", ".join(["until", "max_gen_toks", "do_sample", *Sampling.model_fields])
            raise UserError(f"generation_kwargs: {min(unknown)} is not one of {known}")
        chosen = {name: value for name, value in values.items() if sample or name not in SAMPLED}
        room = self.max_length - new
        if room < 1:
            way_out = f"name fewer than {self.max_length} with --gen_kwargs max_gen_toks=…"
            raise UserError(f"{new} new tokens leave no room in the context of {self.max_length}: {way_out}")
        prompt = self.tok_encode(context) or [self.prefix_token_id]
        request = Request(prompt[-room:], new, Sampling.model_validate(chosen), self.ends)
        return request, TextStream(self.encoding, [stop for stop in until if stop]), len(prompt) > room


def _named_device(device: str) -> Compute:
    """The device of that name, in float32 unless it is the one that would be chosen. Raises UserError for no device."""
    chosen = choose_compute()
    try:
        wanted = torch.device(device)
        torch.empty(0, device=wanted)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {device!r}: {' '.join(str(error).split())[:200]}") from None
    if wanted.type == chosen.device.type:
        return Compute(wanted, chosen.dtype, chosen.reason)
    return Compute(wanted, torch.float32, f"{device} was asked for")


def main() -> None:
    """Run the harness's command line."""
    try:
        cli_evaluate()
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
