"""How fast a large corpus becomes tokens: `python -m benchmarks.preprocess_speed --gigabytes 0.2 1`, after `make run`.

A corpus is made of the sentences of the default one, shuffled with a seed into documents of some 5 kB, in files of JSON
lines; one document in fifty is another one again with a sentence less. Contenders cut the same files into the same
tokenizer's tokens, each in processes of its own:

- plain: `encode_ordinary_batch` of tiktoken on all cores, and no cleaning
- ours, cleaned: read, mended, masked where asked for, rules for single rows, split, tokens
- ours, whole: near duplicates, too, and the checks that a stage makes
- `datasets.map`: ftfy and the same tokenizer, as many processes as cores
- datatrove: its reader, its formatter with ftfy and its tokenizer, as many tasks as cores

Memory is what all processes of a contender hold together, pages that they share counted once (PSS), asked for four
times a second. Seconds of the processor are counted beside those of the clock: they tell contenders apart on a machine
that has other work, too.
"""

import argparse
import json
import logging
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil

from benchmarks.harness import FAILED, ROOT, Figures, Table, finish, make_parser, say
from llm.formats.tokenizer_json import load_tokenizer
from llm.tokenizer import end_of_text

RAW, TOKENIZER = ROOT / "data/raw/corpus", ROOT / "data/processed/corpus/tokenizer.json"
FILE = 50_000_000  # bytes of a file, about
SENTENCES = 40  # of a document
AGAIN = 50  # one document in so many is an earlier one with a sentence less
BATCH = 1024  # documents at a time
PLAIN = "plain encode_ordinary_batch"
PROCESSOR = "MB/s of processor"


def make_corpus(gigabytes: float, folder: Path, seed: int = 1) -> int:
    """Write the corpus below `folder`; gives its bytes of text."""
    generator = random.Random(seed)
    sentences: list[str] = []
    for path in sorted(RAW.rglob("*.txt")):
        sentences += re.findall(r"\S[^.!?]{20,400}[.!?]", path.read_text(encoding="utf-8"))
    (folder / "web").mkdir(parents=True)
    total = number = 0
    last = sentences[:SENTENCES]
    while total < gigabytes * 1e9:
        with (folder / f"web/{number:05}.jsonl").open("w", encoding="utf-8") as file:
            while file.tell() < FILE and total < gigabytes * 1e9:
                again = generator.randrange(AGAIN) == 0
                chosen = last[1:] if again else generator.choices(sentences, k=SENTENCES)
                last = chosen if len(chosen) > SENTENCES // 2 else sentences[:SENTENCES]
                text = "\n\n".join(" ".join(chosen[start : start + 5]) for start in range(0, len(chosen), 5))
                file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
                total += len(text.encode())
        number += 1
    return total


def _texts(raw: Path) -> Iterator[list[str]]:
    for path in sorted(raw.rglob("*.jsonl")):
        batch = []
        with path.open(encoding="utf-8") as file:
            for line in file:
                batch.append(json.loads(line)["text"])
                if len(batch) == BATCH:
                    yield batch
                    batch = []
        yield batch


def plain(raw: Path, out: Path) -> int:
    """tiktoken alone."""
    encoding = load_tokenizer(TOKENIZER)
    end = end_of_text(encoding)
    total = 0
    with (out / "train.bin").open("wb") as file:
        for texts in _texts(raw):
            for ids in encoding.encode_ordinary_batch(texts, num_threads=os.cpu_count() or 1):
                total += file.write(np.array([*ids, end], "<u2").tobytes())
    return total // 2


def _ours(raw: Path, out: Path, whole: bool) -> int:
    from tasks.data import steps
    from tasks.data.cleaning.personal import mask
    from tasks.data.cleaning.record import recorded
    from tasks.data.duplicates import without_duplicates
    from tasks.data.tokens import write_tokens
    from tasks.datasets.corpus import DATASET, Params
    from tasks.stages.process_pool import pool

    logging.basicConfig(level=logging.INFO, format="%(relativeCreated)d ms %(message)s")
    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    params = Params(seed=1, validation=0.02, test=0.02, near_duplicate=0.8)
    job = steps.Preprocessing(
        name="corpus", dataset=DATASET, params=params, raw=raw, work=out / "work", inbox=out / "inbox"
    )
    with pool(), recorded(mask, out) as record:
        rows = steps.read_rows(job, mask)
        if whole:
            rows = without_duplicates(rows, params.near_duplicate)
        rows = steps.split_rows(rows, params)
        record.write(out, "corpus")
        if whole:
            logging.info("checks")
            summary = steps.summarise(job, rows, record)
            steps.check(job, rows, summary).require_success()
        logging.info("tokens")
        meta = write_tokens(load_tokenizer(TOKENIZER), rows, out)
        return sum(counts["tokens"] for counts in meta["splits"].values())


def cleaned(raw: Path, out: Path) -> int:
    """This project's, without near duplicates and checks."""
    return _ours(raw, out, whole=False)


def whole(raw: Path, out: Path) -> int:
    """This project's, as the stage does it."""
    return _ours(raw, out, whole=True)


def datasets_map(raw: Path, out: Path) -> int:
    """`datasets`: mend and encode in `map`, then write."""
    import datasets
    import ftfy

    encoding = load_tokenizer(TOKENIZER)
    end = end_of_text(encoding)

    def work(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        texts = [ftfy.fix_text(text) for text in batch["text"]]
        return {"ids": [[*ids, end] for ids in encoding.encode_ordinary_batch(texts, num_threads=1)]}

    files = [str(path) for path in sorted(raw.rglob("*.jsonl"))]
    rows = datasets.load_dataset("json", data_files=files, split="train", cache_dir=str(out / "cache"))
    rows = rows.map(work, batched=True, batch_size=BATCH, num_proc=os.cpu_count(), remove_columns=["text"])
    total = 0
    with (out / "train.bin").open("wb") as file:
        for batch in rows.with_format("arrow").iter(BATCH):
            total += file.write(batch["ids"].combine_chunks().flatten().to_numpy().astype("<u2").tobytes())
    return total // 2


def datatrove(raw: Path, out: Path) -> int:
    """datatrove's own blocks: reader, formatter with ftfy, tokenizer."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.formatters import FTFYFormatter
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.tokens import DocumentTokenizer

    cut = DocumentTokenizer(str(out / "tokens"), str(TOKENIZER), eos_token="<|endoftext|>", shuffle_documents=False)
    steps = [JsonlReader(str(raw), recursive=True), FTFYFormatter(), cut]
    cores = os.cpu_count() or 1
    LocalPipelineExecutor(steps, tasks=cores, workers=cores, logging_dir=str(out / "logs")).run()
    return sum(path.stat().st_size for path in (out / "tokens").rglob("*.ds")) // 2


CONTENDERS: dict[str, Callable[[Path, Path], int]] = {
    PLAIN: plain,
    "ours, cleaned": cleaned,
    "ours, whole": whole,
    "datasets.map": datasets_map,
    "datatrove": datatrove,
}


def _observe(processes: list[psutil.Process], processor_seconds: dict[int, float]) -> int:
    """Bytes of memory that these processes hold; notes the processor's seconds of each by its number."""
    memory = 0
    for process in processes:
        try:
            times = process.cpu_times()
            processor_seconds[process.pid] = times.user + times.system
            memory += process.memory_full_info().pss
        except psutil.Error:  # it has ended
            continue
    return memory


def measure(name: str, raw: Path, megabytes: float) -> Figures:
    """What one contender takes, in a process of its own: time, the processor's time, memory; tokens."""
    peak = 0
    processor_seconds: dict[int, float] = {}
    with tempfile.TemporaryDirectory(dir=raw.parent) as out, tempfile.TemporaryFile("w+") as log:
        command = [sys.executable, "-m", "benchmarks.preprocess_speed", "--contender", name, str(raw), out]
        start = time.perf_counter()
        running = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, text=True)
        process = psutil.Process(running.pid)
        while running.poll() is None:
            with suppress(psutil.Error):  # it ends while it is asked
                memory = _observe([process, *process.children(recursive=True)], processor_seconds)
                peak = max(peak, memory)
            time.sleep(0.25)
        seconds = time.perf_counter() - start
        log.seek(0)
        lines = log.read().splitlines() or ["no message"]
    if running.returncode:
        return {FAILED: lines[-1]}
    figures = {"MB/s": megabytes / seconds, PROCESSOR: megabytes / sum(processor_seconds.values())}
    return figures | {"peak GB": peak / 1e9, "tokens": int(lines[-1])}


def compare(gigabytes: float, names: list[str], folder: Path | None) -> Table:
    """Generate a corpus and measure each contender on it."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        raw = Path(temporary, "raw")
        written = make_corpus(gigabytes, raw)
        figures = {}
        for name in names:
            figures[name] = measure(name, raw, written / 1e6)
            say(f"{gigabytes:g} GB, {name}: {figures[name].get(FAILED, 'done')}")
    return Table(f"{written / 1e9:.2f} GB of text", PROCESSOR, figures)


def main(arguments: list[str] | None = None) -> None:
    """Make the corpora, let each contender run, print, write."""
    parser = make_parser("preprocess_speed", __doc__)
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[0.2, 1.0, 2.0], help="of each corpus")
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument(
        "--folder", type=Path, help="where the corpora are made, and removed; by default a temporary one"
    )
    parser.add_argument("--contender", nargs=3, metavar=("NAME", "RAW", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.contender:
        name, raw, out = options.contender
        say(str(CONTENDERS[name](Path(raw), Path(out))))
        return
    if not TOKENIZER.exists():
        parser.error(f"{TOKENIZER}: missing; `make run` makes it")
    tables = [compare(gigabytes, options.only, options.folder) for gigabytes in options.gigabytes]
    del options.contender
    finish(options, tables, packages=["numpy", "pandas", "pyarrow", "tiktoken", "tokenizers"])


if __name__ == "__main__":
    main()
