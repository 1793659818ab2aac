"""How the models do on tests that others wrote: `python -m benchmarks.outside --xstest FILE`, after `make run`.

Nothing is tuned on them. Each test is a file that you bring; without one its part is left out.

- XSTest (Röttger et al. 2023), `xstest_prompts.csv`: 250 safe requests that look unsafe, and 200 unsafe ones. The share
  of each that is declined: by the assistant behind the guard, by each of them alone, and by the base.
- IFEval (Zhou et al. 2023), `input_data.jsonl`: instructions about form that a program can check. The share of prompts
  whose instructions are all kept, strictly. `--checker` is a Python that has IFEval's own checks:

      python3 -m venv .peers-outside && .peers-outside/bin/pip install -r benchmarks/requirements-outside.txt

- Spam or phishing mails, a folder of `.eml` files: the share that the classifier and its baseline catch.
"""

import json
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.harness import machine, make_parser, say, show, write
from benchmarks.refusals import declines
from llm.errors import UserError
from llm.formats.model_folder import load_model
from llm.generation.packed import pack_for_inference
from llm.loaded_model import LoadedModel
from llm.objectives import load_for_inference
from llm.objectives.assistant import Question, answer_all, build
from llm.objectives.classifier import email_text, guard_replies, probabilities
from tasks.data.mail import RowError, parse_message
from tasks.measures.baseline import fit_baseline
from tasks.measures.intervals import Ends, interval, mean
from tasks.training.setup import split_file

ANSWER = 96
"""Tokens of an answer to a request of XSTest: an answer declines in its first sentences."""
LONG_ANSWER = 512
"""Tokens of an answer to a prompt of IFEval, some of which ask for hundreds of words."""
CHECK = """
import json, sys
import nltk
from if_verifiable.ifeval import INSTRUCTION_DICT, instructions_util
try:
    nltk.data.find("tokenizers/punkt_tab")
except LookupError:
    from nltk.tokenize.punkt import PunktSentenceTokenizer
    instructions_util._get_sentence_tokenizer = PunktSentenceTokenizer
    nltk.word_tokenize = nltk.tokenize.WordPunctTokenizer().tokenize
for line in sys.stdin:
    row, answer = json.loads(line)
    kept = bool(answer.strip())
    for name, options in zip(row["instruction_id_list"], row["kwargs"]):
        check = INSTRUCTION_DICT[name](name)
        check.build_description(**{key: value for key, value in options.items() if value})
        arguments = check.get_instruction_args()
        if arguments and "prompt" in arguments:
            check.build_description(prompt=row["prompt"])
        kept = kept and bool(check.check_following(answer))
    print(json.dumps(kept))
"""
"""Reads a prompt's row and an answer a line, and prints whether all instructions are kept.

Where nltk's trained splitter of sentences is missing, the untrained one takes its place."""


def load_base(folder: Path, assistant: LoadedModel) -> LoadedModel:
    """An assistant's base as it is published: its own template, no penalty. Raises UserError without one."""
    context_length = assistant.model.config.context_length
    model, encoding = load_model(folder, build=build, context_length=context_length, as_stored=True)
    return LoadedModel(pack_for_inference(model), encoding)


def greedy_answers(loaded: LoadedModel, name: str, prompts: Sequence[str], *, max_new_tokens: int) -> list[str]:
    """Greedy answers, of an assistant or its base, and a line with their speed."""
    start = time.monotonic()
    questions = [Question(prompt) for prompt in prompts]
    answers = answer_all(loaded, questions, max_new_tokens=max_new_tokens)
    seconds = time.monotonic() - start
    tokens = sum(map(len, loaded.encoding.encode_ordinary_batch(answers)))
    speed = f"{seconds / len(prompts):.2f} s each, {tokens / seconds:.0f} tokens/s"
    say(f"{name}: {len(prompts)} answers in {seconds:.0f} s, {speed}")
    return answers


def share(values: Sequence[bool]) -> dict[str, Any]:
    """A share with its interval."""
    rows = np.asarray(values, dtype=float)
    return {"share": float(rows.mean()), "of": len(rows), "interval": list(_ends(rows))}


def difference(ours: Sequence[bool], theirs: Sequence[bool]) -> dict[str, Any]:
    """Our share less theirs on the same rows, with the interval of the paired difference."""
    gains = np.asarray(ours, dtype=float) - np.asarray(theirs, dtype=float)
    return {"difference": float(gains.mean()), "interval": list(_ends(gains))}


def _ends(rows: np.ndarray) -> Ends:
    return interval(mean, rows)


@dataclass(frozen=True)
class Systems:
    """Who answers."""

    assistant: LoadedModel
    base: LoadedModel
    guard: LoadedModel | None

    @classmethod
    def of(cls, models: Path) -> "Systems":
        """Those of a folder of models; the guard if it is there."""
        assistant = load_for_inference(models / "assistant")
        guard = models / "guard"
        return cls(
            assistant=assistant,
            base=load_base(models / "published", assistant),
            guard=load_for_inference(guard) if guard.exists() else None,
        )


def xstest(file: Path, systems: Systems) -> dict[str, Any]:
    """The shares of safe and of unsafe requests that are declined, by who declines."""
    rows = pd.read_csv(file)
    if missing := {"prompt", "label"} - set(rows):
        raise UserError(f"{file}: column {sorted(missing)[0]} is missing")
    prompts = rows["prompt"].tolist()
    declined = {}
    for name, model in {"assistant": systems.assistant, "base": systems.base}.items():
        answers = greedy_answers(model, name, prompts, max_new_tokens=ANSWER)
        declined[name] = [declines(answer) for answer in answers]
    if systems.guard is not None:
        replies = guard_replies(systems.guard, prompts)
        declined["guard"] = [reply is not None for reply in replies]
        declined["guard and assistant"] = list(np.logical_or(declined["guard"], declined["assistant"]))
    table = rows.assign(**declined)
    is_safe = table["label"] == "safe"
    is_unsafe = table["label"] == "unsafe"
    return {
        who: {"safe": share(table.loc[is_safe, who]), "unsafe": share(table.loc[is_unsafe, who])} for who in declined
    }


def ifeval(file: Path, prompts: int, checker: Path, *, systems: Systems) -> dict[str, Any]:
    """The share of the first prompts whose instructions are all kept, strictly, by assistant and base."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()[:prompts]]
    texts = [row["prompt"] for row in rows]
    answers = {
        "assistant": greedy_answers(systems.assistant, "assistant", texts, max_new_tokens=LONG_ANSWER),
        "base": greedy_answers(systems.base, "base", texts, max_new_tokens=LONG_ANSWER),
    }
    if systems.guard is not None:
        replies = guard_replies(systems.guard, texts)
        guarded = [reply or answer for reply, answer in zip(replies, answers["assistant"], strict=True)]
        answers["guard and assistant"] = guarded
    kept = {who: _kept(checker, rows, texts_of_one) for who, texts_of_one in answers.items()}
    shares = {who: share(values) for who, values in kept.items()}
    return shares | {"assistant to base": difference(kept["assistant"], kept["base"])}


def _kept(checker: Path, rows: Sequence[Mapping[str, Any]], answers: Sequence[str]) -> list[bool]:
    lines = [json.dumps([row, answer]) for row, answer in zip(rows, answers, strict=True)]
    command = [str(checker), "-c", CHECK]
    checked = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True, check=False)
    if checked.returncode:
        raise UserError(f"{checker}: {checked.stderr.strip().splitlines()[-1]}")
    return [json.loads(line) for line in checked.stdout.splitlines()]


def mails(folder: Path, classifier: LoadedModel, data: Path) -> dict[str, Any]:
    """The share of a folder's mails that the classifier and its baseline call by the label that is looked for."""
    texts = []
    for path in sorted(folder.rglob("*.eml")):
        try:
            texts.append(email_text(*parse_message(path.read_bytes())))
        except RowError:
            continue
    texts = [text for text in texts if text.strip()]
    if not texts:
        raise UserError(f"{folder}: there is no .eml file with a text")
    train = pd.read_parquet(split_file(data, "train"))
    validation = pd.read_parquet(split_file(data, "validation"))
    config = classifier.model.config
    baseline = fit_baseline(train, validation, config)
    ours = config.decide(probabilities(classifier, texts)) > 0
    theirs = baseline.config.decide(baseline.probabilities(texts)) > 0
    return {"classifier": share(ours), "baseline": share(theirs), "classifier to baseline": difference(ours, theirs)}


def show_test(title: str, measured: Mapping[str, Any]) -> None:
    """Print a test's figures: who, which part, share, interval."""
    rows = []
    for who, figures in measured.items():
        parts = figures if "interval" not in figures else {"": figures}
        for part, figure in parts.items():
            low, high = figure["interval"]
            rows.append((f"{who} {part}".strip(), figure.get("share", figure.get("difference")), low, high))
    show(title, ("who", "share", "low", "high"), rows)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, write."""
    parser = make_parser("outside", __doc__)
    parser.add_argument("--xstest", type=Path, metavar="FILE", help="xstest_prompts.csv")
    parser.add_argument("--ifeval", type=Path, metavar="FILE", help="input_data.jsonl")
    parser.add_argument("--prompts", type=int, default=541, help="prompts of IFEval, from the first on")
    parser.add_argument("--checker", type=Path, default=Path(".peers-outside/bin/python"), help="a Python with IFEval")
    parser.add_argument("--mails", type=Path, metavar="FOLDER", help="spam or phishing mails, .eml files")
    parser.add_argument("--models", type=Path, default=Path("models"), help="the folder of all models")
    parser.add_argument("--data", type=Path, default=Path("data/processed/emails"), help="the mails' folder")
    options = parser.parse_args(arguments)
    if not (options.xstest or options.ifeval or options.mails):
        parser.error("name a test: --xstest, --ifeval or --mails")
    for path in filter(None, (options.xstest, options.ifeval, options.mails)):
        if not path.exists():
            parser.error(f"{path}: no such file or folder")
    if options.ifeval and not options.checker.exists():
        parser.error(f"--checker {options.checker}: no such file; the beginning of --help says how to make it")

    measured: dict[str, Any] = {}
    try:
        if options.xstest or options.ifeval:
            systems = Systems.of(options.models)
        if options.xstest:
            measured["xstest"] = xstest(options.xstest, systems)
        if options.ifeval:
            measured["ifeval"] = ifeval(options.ifeval, options.prompts, options.checker, systems=systems)
        if options.mails:
            measured["mails"] = mails(options.mails, load_for_inference(options.models / "classifier"), options.data)
    except UserError as error:
        parser.error(str(error))
    for title, figures in measured.items():
        show_test(title, figures)
    write(options.out, {"machine": machine(["scikit-learn"])} | measured)


if __name__ == "__main__":
    main()
