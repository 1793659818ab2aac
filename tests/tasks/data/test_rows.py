import json
import logging
import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from dataset_rows import as_table
from token_files import write_tokens

from llm.formats.tokenizer_json import load_tokenizer
from tasks.data.cleaning.record import recorded
from tasks.data.duplicates import overlap, without_duplicates
from tasks.data.join import join_inbox
from tasks.data.rows import Rows
from tasks.data.splits import SPLITS
from tasks.data.steps import Preprocessing, add_inbox, read_rows, split_rows
from tasks.datasets.corpus import DATASET, Params, write_corpus

PARAMS = Params(seed=1, validation=0.1, test=0.1, near_duplicate=0.8, vocabulary_size=300)
REPORT = ("cleaning.json", "cleaning.md", "quarantine.parquet")


def sentence(generator: random.Random) -> str:
    return " ".join(f"word{generator.randrange(400)}" for _ in range(12)) + "."


def chat(generator: random.Random, senders: str) -> dict[str, list]:
    turn = [{"sender": sender, "text": sentence(generator)} for sender in senders]
    return {"messages": [turn]}


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    """Some 140 kB: small files, rows with repeats, mojibake and chats that nobody answered, and a book."""
    folder = tmp_path_factory.mktemp("raw")
    generator = random.Random(0)
    for source in ("notes", "rows", "talk", "books"):
        (folder / source).mkdir()
    for number in range(30):
        (folder / f"notes/{number:02}.txt").write_text(f"Note {number}: schÃ¶n. " + sentence(generator))
    sentences = [sentence(generator) for _ in range(420)]
    texts = [" ".join(sentences[start : start + 6]) for start in range(0, 420, 6)]
    texts[40] = texts[3] + " and a word"
    texts[50] = texts[4].upper()
    texts[60] = "\n".join(["the same"] * 40)
    (folder / "rows/a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    chats = {str(number): chat(generator, "xy"[: 1 + number % 3]) for number in range(40)}
    (folder / "talk/chats.json").write_text(json.dumps(chats))
    (folder / "books/one.txt").write_text("\n\n".join([sentence(generator) for _ in range(650)]))
    return folder


@pytest.fixture(scope="module", autouse=True)
def in_small_parts() -> Iterator[None]:
    """A small corpus has some twenty parts, made in this process; test_process_pool.py has others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("THREESTAGE_RAY", raising=False)
        patch.setattr("tasks.datasets.corpus.PART", 6_000)
        patch.setattr("tasks.datasets.corpus.FILES", 8)
        patch.setattr("tasks.data.rows.BATCH", 20_000)
        patch.setattr("tasks.data.table_parts.map_in_order", map)
        yield


def read(raw: Path, work: Path) -> Rows:
    job = Preprocessing(name="corpus", dataset=DATASET, params=PARAMS, raw=raw, work=work, inbox=work)
    return read_rows(job, str)


def preprocess(raw: Path, folder: Path) -> Rows:
    """The steps of the flow up to the splits, with its outs in the folder, and its parts in `work` there."""
    (folder / "report").mkdir(parents=True, exist_ok=True)
    with recorded(folder=folder / "report") as record:
        rows = without_duplicates(read(raw, folder / "work"), 0.8)
        rows = split_rows(rows, PARAMS)
        record.write(folder / "report", "corpus")
    write_corpus(rows, folder, PARAMS)
    return rows


def outs(folder: Path) -> dict[str, bytes]:
    files = [*folder.glob("*.bin"), folder / "meta.json", *(folder / "report").iterdir()]
    return {path.name: path.read_bytes() for path in sorted(files)}


@pytest.fixture(scope="module")
def made(raw, tmp_path_factory) -> Path:
    """The outs of the corpus in small parts, which stay in its folder `work`."""
    folder = tmp_path_factory.mktemp("parts")
    preprocess(raw, folder)
    return folder


def test_bytes_of_many_parts_are_those_of_one(raw, made, tmp_path, monkeypatch):
    monkeypatch.setattr("tasks.datasets.corpus.PART", 2**24)
    monkeypatch.setattr("tasks.datasets.corpus.FILES", 1_000)
    rows = preprocess(raw, tmp_path)
    expected = outs(tmp_path)
    content = outs(made)
    assert set(content) == {*REPORT, "meta.json", "test.bin", "train.bin", "validation.bin"}
    assert {name: content[name] == expected[name] for name in content} == dict.fromkeys(content, True)
    assert len(rows.parts) == 1
    assert len(list((made / "work/rows").iterdir())) > 10
    record = json.loads(content["cleaning.json"])
    dropped = {"characters": 0, "unanswered": 14, "repetition": 1, "near_duplicates": 2}
    assert {rule: entry["rows_left_out"] for rule, entry in record.items()} == dropped
    assert record["characters"]["texts_changed"] == 30


def test_token_files_of_parts_are_those_of_whole_tables(raw, made, tmp_path):
    table = as_table(preprocess(raw, tmp_path / "again"))
    tables = {split: table[table["split"] == split] for split in SPLITS}
    write_tokens(load_tokenizer(tmp_path / "again/tokenizer.json"), tables, tmp_path)
    for name in ("meta.json", "test.bin", "train.bin", "validation.bin"):
        assert (tmp_path / name).read_bytes() == (made / name).read_bytes()


def test_batches_hold_every_row_once_and_rows_of_one_id_together(raw, tmp_path):
    raw = shutil.copytree(raw, tmp_path / "raw")
    (raw / "books/one.txt#2").write_text("This file is called as the book's second piece is.")
    rows = read(raw, tmp_path / "work")
    batches = list(rows.batches())
    assert len(batches) == 4
    assert batches[-1]["id"].tolist()[-2:] == ["books/one.txt#2"] * 2
    table = pd.concat(batches)
    assert sorted(table.index) == rows.positions.tolist()
    assert (table["text"].str.len() == rows.facts["length"][table.index]).all()


def test_overlap_of_large_splits_is_counted_in_a_sample(raw, tmp_path, monkeypatch):
    rows = read(raw, tmp_path)
    rows = replace(rows, facts=rows.facts.assign(split=np.array(SPLITS)[np.arange(len(rows.facts)) % 3]))
    assert overlap(rows, 0.5, seed=1) == 2
    monkeypatch.setattr("tasks.data.duplicates.SAMPLE", 3)
    assert overlap(rows, 0.5, seed=1) <= 2


def test_inbox_joins_many_parts_as_it_joins_a_table(raw, tmp_path):
    rows = preprocess(raw, tmp_path)
    table = as_table(rows)
    learned = table[table["split"] == "train"].iloc[0]["text"]
    tested = table[table["split"] == "test"].iloc[0]["text"]
    texts = [learned, tested + " too", "something else entirely", "mine"]
    inbox = pd.DataFrame({"id": [f"inbox/{n}" for n in range(4)], "source": "inbox/mine", "text": texts})
    expected = join_inbox(table.reset_index(drop=True), inbox, dataset=DATASET, params=PARAMS)
    joined = add_inbox(rows, inbox, PARAMS)
    assert len(joined.facts) == len(table) - 1 + 3
    assert as_table(joined).to_numpy().tolist() == expected.to_numpy().tolist()
    assert joined.facts["length"].tolist() == expected["text"].str.len().tolist()


@pytest.mark.parametrize("phase", ["documents", "rows", "tokens"])
def test_resume_with_the_next_part_gives_the_same_bytes(raw, made, tmp_path, caplog, phase):
    phases = ("documents", "rows", "tokens")
    work = shutil.copytree(made / "work", tmp_path / "work")  # as after a kill: a part is there whole or not
    for later in phases[phases.index(phase) :]:
        parts = sorted((work / later).glob("*.arrow"))
        for path in parts[3:] if later == phase else parts:
            path.unlink()
    before = {path: path.stat().st_mtime_ns for path in work.rglob("[0-9]*.arrow")}
    with caplog.at_level(logging.INFO):
        preprocess(raw, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert any(line.startswith(f"{phase}: ") and line.endswith(" 3 were there") for line in caplog.messages)
    assert outs(tmp_path) == outs(made)
