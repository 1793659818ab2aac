"""What strangers can make the next training learn: from an HTTP client to the rows of train, with and without a person.

Each attack comes in through the app as clients at several addresses send it. Then it is joined with the dataset twice:
as it waits, and as a careless person who accepts all of it would have it.
"""

import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pandas as pd
import pytest
from dataset_rows import as_rows, as_table
from dvc.repo import Repo
from starlette.testclient import TestClient
from typer.testing import CliRunner

from app.api.server import create_app
from app.quarantine import Quarantine
from app.settings import Settings
from cli.main import cli
from tasks.data.inbox import open_inbox
from tasks.data.steps import Preprocessing, add_inbox, read_inbox
from tasks.datasets.emails import thread
from tasks.params import find_dataset
from tests.app.conftest import tracked, wait_until

TRAIN = 980  # so that 20 rows of feedback are its share, five of them for one network
WORDS = [f"{a}{b}" for a in ("mar", "sol", "ten", "vi", "ro", "kel") for b in ("ta", "rin", "do", "ves", "lim")]
SENT_MOST = 210  # of which one network may leave 200

Sent = tuple[str, str, str, str]
"""An address with what it says: label, subject, body."""


def mails() -> pd.DataFrame:
    """A split dataset of mails as `preprocess` has it before the inbox joins."""
    draw = random.Random(4)
    rows = []
    for number in range(TRAIN + 40):
        body = " ".join(draw.choices(WORDS, k=14)) + f" of number {number}"
        rows.append((f"mine.csv#{number}", "mine.csv", f"Mail {number}", body, ("ham", "spam")[number % 2]))
    table = pd.DataFrame(rows, columns=["id", "source", "subject", "body", "label"])
    return table.assign(group=thread(table).astype(str), split=["train"] * TRAIN + ["validation"] * 20 + ["test"] * 20)


def opposite(label: str) -> str:
    return "spam" if label == "ham" else "ham"


def flood() -> Iterator[Sent]:
    """One network, a different text each time."""
    for number in range(SENT_MOST):
        yield f"192.0.2.{number % 250}", "spam", f"Flood {number}", f"flooding w{number} with x{number} and y{number}"


def flips() -> Iterator[Sent]:
    """Mails that anybody can read, one "!" added, with the other label."""
    for _, mail in mails()[:40].iterrows():
        yield "192.0.2.1", opposite(mail["label"]), mail["subject"], mail["body"] + "!"


def sybils() -> Iterator[Sent]:
    """The same from many networks of one provider, each mail by four of them."""
    for number, (_, mail) in enumerate(mails()[:40].iterrows()):
        for voice in range(4):
            address = f"2001:db8:0:{number * 4 + voice:x}::1"
            yield address, opposite(mail["label"]), mail["subject"], mail["body"] + "!" * (voice + 1)


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A project whose dataset is `mails`, and a quarantine."""
    monkeypatch.chdir(tmp_path)
    Path("dvc.yaml").write_text("{}")
    Repo.init(no_scm=True).close()
    Path("data/processed/emails").mkdir(parents=True)
    mails().query("split == 'train'").drop(columns="split").to_parquet("data/processed/emails/train.parquet")
    open_inbox("emails")
    return tmp_path


def is_started(client: TestClient) -> bool:
    return client.get("/readyz").status_code == 200


@pytest.fixture(scope="module")
def app(registry) -> Iterator[TestClient]:
    """The app over the shared registry, whose classifier learned from emails."""
    with tracked(registry), TestClient(create_app(Settings()), "http://localhost") as client:
        wait_until(lambda: is_started(client), 120)
        yield client


def send(app: TestClient, sent: list[Sent]) -> list[int]:
    """Each from its address, through the loop that the app runs on; the statuses."""

    async def all_of_them() -> list[int]:
        statuses = []
        for address, label, subject, body in sent:
            feedback = {"about": "email", "label": label, "subject": subject, "body": body}
            client = httpx.ASGITransport(app.app, client=(address, 1))
            async with httpx.AsyncClient(transport=client, base_url="http://localhost") as http:
                statuses.append((await http.post("/feedback", json=feedback)).status_code)
        return statuses

    return app.portal.call(all_of_them)


def joined() -> pd.DataFrame:
    """The mails after the inbox joined them."""
    emails = find_dataset("emails")
    params = emails.params(seed=1, validation=0.1, test=0.1, near_duplicate=0.8)
    here = Path()
    job = Preprocessing(name="emails", dataset=emails, params=params, raw=here, work=here, inbox=open_inbox("emails"))
    return as_table(add_inbox(as_rows(mails(), here, emails), read_inbox(job), params))


def threestage(*words: str) -> str:
    done = CliRunner().invoke(cli, ["feedback", *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@dataclass
class Effect:
    """The effect of an attack: rows that wait and their changes, and what is in train once all is accepted."""

    waiting: int
    changes: dict[str, int]
    rows: int
    texts: int
    replaced: int


ATTACKS = {
    flood: Effect(waiting=200, changes={"new": 200}, rows=5, texts=5, replaced=0),
    flips: Effect(waiting=40, changes={"contradicts": 40}, rows=0, texts=0, replaced=0),
    sybils: Effect(waiting=160, changes={"contradicts": 40}, rows=19, texts=19, replaced=19),
}


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_attack_by_feedback_moves_little(attack, app, project):
    app.app.state.feedback = Quarantine(Settings())
    sent = list(attack())
    statuses = send(app, sent)
    effect = ATTACKS[attack]
    assert (statuses.count(200), statuses.count(429)) == (effect.waiting, len(sent) - effect.waiting)

    untouched = joined()
    pd.testing.assert_frame_equal(untouched, mails())

    listed = json.loads(threestage("--json"))
    assert Counter(text["change"] for text in listed["texts"]) == effect.changes
    assert sum(len(text["rows"]) for text in listed["texts"]) == effect.waiting
    assert sum(sum(changes.values()) for changes in listed["networks"].values()) == effect.waiting
    assert threestage("accept", "all", "--yes").startswith(f"{effect.waiting} rows accepted\n")

    table = joined()
    held_out = [rows[rows["split"] != "train"].reset_index(drop=True) for rows in (table, untouched)]
    pd.testing.assert_frame_equal(*held_out)
    feedback = table[table["id"].str.startswith("inbox/")]
    replaced = set(untouched["id"]) - set(table["id"])
    assert (len(feedback), feedback["body"].nunique()) == (effect.rows, effect.texts)
    assert len(replaced) == effect.replaced
    assert len(feedback) <= 0.02 * (table["split"] == "train").sum()
