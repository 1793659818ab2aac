import json
import logging
import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from token_files import write_tokens

from tasks.data.cleaning.record import recorded
from tasks.data.cleaning.rules import in_languages, within_lengths, without_repetition
from tasks.data.inbox import join_inbox
from tasks.data.shingles import text_hashes
from tasks.data.splits import deduplicate, overlap, split
from tasks.data.stream import overlap_of_stream, with_inbox, without_duplicates
from tasks.datasets.corpus import DATASET, Params, choose_encoding, read_corpus, read_stream, write_corpus

PARAMS = Params(seed=1, validation=0.1, test=0.1, near_duplicate=0.8, vocabulary_size=300)
PART = 6_000  # characters, so that a small corpus has some twenty


def sentence(generator: random.Random) -> str:
    return " ".join(f"word{generator.randrange(400)}" for _ in range(12)) + "."


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    """Some 140 kB: small files, rows with repeats, mojibake and chats that nobody answered, and a book."""
    folder, generator = tmp_path_factory.mktemp("raw"), random.Random(0)
    (folder / "notes").mkdir()
    for number in range(30):
        (folder / f"notes/{number:02}.txt").write_text(f"Note {number}: schÃ¶n. " + sentence(generator))
    texts = [" ".join(sentence(generator) for _ in range(6)) for _ in range(70)]
    texts[40] = texts[3] + " and a word"
    texts[50], texts[60] = texts[4].upper(), "\n".join(["the same"] * 40)
    (folder / "rows").mkdir()
    (folder / "rows/a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    chats = {
        str(n): {"messages": [[{"sender": s, "text": sentence(generator)} for s in "xy"[: 1 + n % 3]]]}
        for n in range(40)
    }
    (folder / "talk").mkdir()
    (folder / "talk/chats.json").write_text(json.dumps(chats))
    (folder / "books").mkdir()
    (folder / "books/one.txt").write_text("\n\n".join(sentence(generator) for _ in range(650)))
    return folder


def in_small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("THREESTAGE_RAY", raising=False)
    monkeypatch.setattr("tasks.datasets.corpus.PART", PART)
    monkeypatch.setattr("tasks.datasets.corpus.FILES", 8)
    monkeypatch.setattr("tasks.data.stream.CHECKED", 20_000)
    monkeypatch.setattr(
        "tasks.data.table_parts.map_in_order", map
    )  # tests/tasks/stages/test_process_pool.py has the processes


@pytest.fixture(autouse=True)
def small(monkeypatch):
    in_small_parts(monkeypatch)


def as_tables(raw: Path, to: Path) -> pd.DataFrame:
    """What the steps of the flow do to a table, with their outs in `to`."""
    (to / "report").mkdir(parents=True)
    with recorded() as record:
        table = read_corpus(raw, PARAMS)
        table = in_languages(table, table["text"], ())
        table = within_lengths(table, table["text"], DATASET.lengths)
        table = without_repetition(table, table["text"]).reset_index(drop=True)
        table = deduplicate(table, table["text"], 0.8)
        table = split(table, text_hashes(table["text"]), PARAMS)
        record.write(to / "report", "corpus")
    splits = {name: table[table["split"] == name] for name in ("train", "validation", "test")}
    encoding = choose_encoding(PARAMS, splits["train"]["text"])
    write_tokens(encoding, splits, to)
    return table


def as_stream(raw: Path, to: Path):
    """The same by parts."""
    (to / "report").mkdir(parents=True, exist_ok=True)
    with recorded(folder=to / "report") as record:
        stream = without_duplicates(read_stream(raw, PARAMS, to / "work", str), 0.8)
        facts = split(stream.facts, stream.units, PARAMS)
        record.write(to / "report", "corpus")
    stream = replace(stream, facts=facts)
    write_corpus(stream, to, PARAMS)
    return stream


def outs(folder: Path) -> dict[str, bytes]:
    files = [*folder.glob("*.bin"), folder / "meta.json", *(folder / "report").iterdir()]
    return {path.name: path.read_bytes() for path in sorted(files)}


@pytest.fixture(scope="module")
def expected(raw, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    as_tables(raw, folder)
    return folder


@pytest.fixture(scope="module")
def made(raw, tmp_path_factory) -> Path:
    """The same by parts, which stay in its folder `work`."""
    folder = tmp_path_factory.mktemp("stream")
    with pytest.MonkeyPatch.context() as patch:
        in_small_parts(patch)
        as_stream(raw, folder)
    return folder


def test_parts_make_the_same_bytes_as_one_table(raw, expected, made):
    found, wanted = outs(made), outs(expected)
    report = {"cleaning.json", "cleaning.md", "quarantine.parquet"}
    assert set(found) == report | {"meta.json", "test.bin", "train.bin", "validation.bin"}
    assert {name: found[name] == wanted[name] for name in found} == dict.fromkeys(found, True)
    assert len(list((made / "work/rows").iterdir())) > 10
    record = json.loads(found["cleaning.json"])
    assert {rule: each["rows_left_out"] for rule, each in record.items()} == {
        "characters": 0,
        "unanswered": 14,
        "repetition": 1,
        "near_duplicates": 2,
    }
    assert record["characters"]["texts_changed"] == 30


def test_batches_hold_every_row_once_and_rows_of_one_id_together(raw, tmp_path):
    again = shutil.copytree(raw, tmp_path / "raw")
    (again / "books/one.txt#2").write_text("This file is called as the book's second piece is.")
    stream = read_stream(again, PARAMS, tmp_path / "work", str)
    batches = list(stream.batches())
    assert len(batches) == 4
    assert batches[-1]["id"].tolist()[-2:] == ["books/one.txt#2"] * 2
    table = pd.concat(batches)
    assert sorted(table.index) == stream.facts.index.tolist()
    assert (table["text"].str.len() == stream.facts["length"][table.index]).all()


@pytest.mark.parametrize("held_out", [2**20, 40])
def test_an_overlap_of_the_splits_is_found_in_a_sample_of_them_too(raw, tmp_path, monkeypatch, held_out):
    with recorded():
        stream = read_stream(raw, PARAMS, tmp_path, str)
        table = read_corpus(raw, PARAMS)
        table = without_repetition(table, table["text"]).reset_index(drop=True)
    drawn = np.array(["train", "validation", "test"])[np.arange(len(table)) % 3]
    stream = replace(stream, facts=stream.facts.assign(split=drawn))
    table = table.assign(split=drawn)
    monkeypatch.setattr("tasks.data.stream.HELD_OUT", held_out)
    found = overlap_of_stream(stream, 0.5, 1)
    everything = overlap(table, table["text"], 0.5)
    assert everything == 2
    assert found == everything if held_out > 40 else found <= everything


def test_an_inbox_joins_as_it_joins_a_table(raw, tmp_path):
    stream = as_stream(raw, tmp_path)
    everything = np.arange(len(stream.facts))
    table = stream.rows(stream.facts.index.to_numpy()[everything], ["id", "source", "text"])
    table = table.assign(split=stream.facts["split"])
    learned, tested = (table[table["split"] == name].iloc[0]["text"] for name in ("train", "test"))
    texts = [learned, tested + " too", "something else entirely", "mine"]
    left = pd.DataFrame({"id": [f"inbox/{n}" for n in range(4)], "source": "inbox/mine", "text": texts})
    joined = with_inbox(stream, left, 0.8, DATASET.text, pd.DataFrame.copy)
    wanted = join_inbox(table.reset_index(drop=True), left, 0.8, text=DATASET.text, forms=DATASET.text)
    found = joined.rows(joined.facts.index.to_numpy(), ["id", "source", "text"]).assign(split=joined.facts["split"])
    assert len(found) == len(table) - 1 + 3
    assert found.to_numpy().tolist() == wanted[["id", "source", "text", "split"]].to_numpy().tolist()
    assert joined.facts["length"].tolist() == wanted["text"].str.len().tolist()


@pytest.mark.parametrize("phase", ["documents", "rows", "tokens"])
def test_an_interrupted_run_goes_on_with_the_next_part_to_the_same_bytes(raw, made, tmp_path, caplog, phase):
    phases = ("documents", "rows", "tokens")
    shutil.copytree(made / "work", tmp_path / "work")  # as it is where a run is killed: a part is there whole or not
    for later in phases[phases.index(phase) :]:
        for path in sorted((tmp_path / "work" / later).glob("*.arrow"))[3 if later == phase else 0 :]:
            path.unlink()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("[0-9]*.arrow")}
    with caplog.at_level(logging.INFO):
        as_stream(raw, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert any(line.startswith(f"{phase}: ") and line.endswith(" 3 were there") for line in caplog.messages)
    assert outs(tmp_path) == outs(made)
