"""What waits in the quarantine, for a person who decides: nearly equal rows are one text, with what it would change."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import pandas as pd

from app.quarantine import Waiting
from tasks.data.inbox import FEEDBACK, IN_INBOX, NEAR, leaders, same_answer
from tasks.data.splits import near_pairs
from tasks.datasets import Dataset, find

CHANGES = ("contradicts", "new", "repeats", "bad answer", "not known")
"""What accepting a text would do: say another thing than a row of train, add one, say what one says; nothing; none of
these where the dataset is not here."""
SHOWN = 100
"""Characters of a text in a line."""


@dataclass(frozen=True)
class Text:
    """Nearly equal rows that say the same."""

    id: str
    """That of the row that came first, which stands for all of them."""
    dataset: str
    change: str
    """One of CHANGES."""
    says: str
    """The label or answer that it gives; of a bad answer that one."""
    train_says: str
    """What the row of train says that it contradicts."""
    text: str
    """What it is about, as the row that came first has it."""
    rows: dict[str, str]
    """The id of each row, with its client."""
    versions: list[str]
    """Those whose answers it is about."""

    @property
    def clients(self) -> Counter[str]:
        """The rows of each client."""
        return Counter(self.rows.values())


def texts(waiting: Sequence[Waiting]) -> list[Text]:
    """What waits, by what it would change and then as it came."""
    found: list[Text] = []
    by_dataset = sorted(waiting, key=lambda each: each.dataset)
    for dataset, rows in groupby(by_dataset, key=lambda each: each.dataset):
        found += _texts(dataset, find(dataset), list(rows))
    return sorted(found, key=lambda each: CHANGES.index(each.change))


def select(
    found: Sequence[Text],
    ids: Sequence[str] = (),
    networks: Sequence[str] = (),
    datasets: Sequence[str] = (),
    everything: bool = False,
) -> list[str]:
    """The ids of rows that are meant; an id that no row here has is given as it is, as it may have been decided on."""
    chosen = [*ids]
    for each in found:
        whole = everything or each.id in ids or each.dataset in datasets
        chosen += [row for row, client in each.rows.items() if whole or client in networks]
    return list(dict.fromkeys(chosen))


def one_line(text: str) -> str:
    """The beginning of a text, without characters that could change what a terminal or a page shows around it."""
    short = " ".join(text.split())[:SHOWN]
    return "".join(each if each.isprintable() else "\ufffd" for each in short)


def _texts(name: str, dataset: Dataset, rows: Sequence[Waiting]) -> list[Text]:
    empty = {**dict.fromkeys(dataset.feedback or (), ""), "history": [], "verdict": "good"}
    table = pd.DataFrame([{**empty, **each.row} for each in rows])
    asked = dataset.text(table.assign(**{dataset.answer: ""})).tolist()
    keys = pd.DataFrame({"first": leaders(asked), "says": table[dataset.answer].map(same_answer)})
    keys["bad"] = table["verdict"] == "bad"
    train = _train(name, dataset, [asked[place] for place in keys["first"].unique()])
    said = dict(zip(keys["first"].unique(), train, strict=True)) if train is not None else None
    found = []
    for (first, says, bad), places in keys.groupby(["first", "says", "bad"], sort=False).groups.items():
        own = [rows[place] for place in places]
        known = said[first] if said is not None else []
        if bad:
            change = "bad answer"
        elif said is None:
            change = "not known"
        else:
            change = "new" if not known else "repeats" if says in map(same_answer, known) else "contradicts"
        found.append(
            Text(
                own[0].id,
                name,
                change,
                table[dataset.answer][places[0]],
                known[0] if change == "contradicts" else "",
                asked[places[0]],
                {each.id: each.client for each in own},
                sorted({str(each.row.get("version")) for each in own}),
            )
        )
    return found


def _train(name: str, dataset: Dataset, asked: list[str]) -> list[list[str]] | None:
    """What rows of train say of each text, feedback apart; None where the dataset is not here."""
    path = Path("data/processed", name, "train.parquet")
    if not path.exists():
        return None
    table = pd.read_parquet(path)
    table = table[~table["id"].str.startswith(f"{IN_INBOX}{FEEDBACK}#")]
    said: list[list[str]] = [[] for _ in asked]
    known, answers = dataset.text(table.assign(**{dataset.answer: ""})), table[dataset.answer].tolist()
    for one, other in near_pairs(asked, known.tolist(), NEAR).tolist():
        said[one].append(answers[other])
    return said
