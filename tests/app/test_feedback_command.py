"""`threestage feedback` and the page's tab over a quarantine with some rows."""

import json
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from dvc.repo import Repo
from projects import git
from typer.testing import CliRunner, Result

from app.command import cli
from app.errors import RequestError
from app.page_feedback import decide, waiting
from app.quarantine import Quarantine
from app.settings import Settings
from tasks.data.inbox import open_inbox
from tasks.data.textfiles import read_json_lines
from tasks.stages.graph import LOCK_FILE
from tasks.stages.lock import exclusive

CURATED = "the minutes of the meeting on Tuesday are attached to this mail for you to read"


@pytest.fixture
def quarantine(tmp_path, monkeypatch) -> Quarantine:
    """In a project: three rows of one network, two of them nearly equal, and two of another."""
    monkeypatch.chdir(tmp_path)
    Path("dvc.yaml").write_text("{}")
    git(tmp_path, "init", "--quiet")
    Repo.init().close()
    for name in ("emails", "instructions"):
        open_inbox(name)
    Path("data/processed/emails").mkdir(parents=True)
    train = pd.DataFrame({"id": ["a#1"], "subject": ["Minutes"], "body": [CURATED], "label": ["ham"]})
    train.to_parquet("data/processed/emails/train.parquet")
    found = Quarantine(Settings())
    for label, subject, body, client in (
        ("spam", "Minutes", CURATED + "!\u2028", "network 1"),
        ("spam", "Won", "a cruise for two\x1b\u202e", "network 1"),
        ("spam", "WON", "A cruise, for two", "network 2"),
    ):
        found.add("emails", {"label": label, "subject": subject, "body": body}, client, "m/1")
    answer = {"instruction": "Who?", "output": "Me.", "system": "", "history": []}
    found.add("instructions", answer | {"verdict": "good"}, "network 2", "a/1")
    found.add("instructions", answer | {"instruction": "What?", "verdict": "bad"}, "network 1", "a/1")
    return found


def threestage(*words: str) -> Result:
    return CliRunner().invoke(cli, ["feedback", *words])


def test_the_list_says_what_each_text_would_change_and_shows_nothing_that_moves_a_terminal(quarantine):
    ids = [each.id for each in quarantine.waiting()]
    assert threestage().stdout.splitlines() == [
        "5 rows wait: 4 texts of 2 networks",
        "  network network 1: 1 contradicts, 1 new, 1 bad answer",
        "  network network 2: 1 new, 1 not known",
        f"{ids[0]}  emails  contradicts  spam  ham  Minutes {CURATED}!  network 1 x1  m/1",
        f"{ids[1]}  emails  new  spam  Won a cruise for two\ufffd\ufffd  network 1 x1 network 2 x1  m/1",
        f"{ids[4]}  instructions  bad answer  Me.  What?  network 1 x1  a/1",
        f"{ids[3]}  instructions  not known  Me.  Who?  network 2 x1  a/1",
    ]
    (found,) = [each for each in json.loads(threestage("--json").stdout)["texts"] if each["change"] == "new"]
    assert found["rows"] == {ids[1]: "network 1", ids[2]: "network 2"}


@pytest.mark.parametrize(
    ("words", "chosen"),
    [
        (["{1}"], [1, 2]),
        (["{2}"], [2]),
        (["network 2"], [2, 3]),
        (["emails"], [0, 1, 2]),
        (["{0}", "instructions", "{0}"], [0, 3, 4]),
        (["all"], [0, 1, 2, 3, 4]),
    ],
)
def test_rows_are_dropped_by_id_network_dataset_or_all_and_once(quarantine, words, chosen):
    ids = [each.id for each in quarantine.waiting()]
    words = ["drop", *(word.format(*ids) for word in words)]
    assert threestage(*words).stdout == f"{len(chosen)} rows dropped\n"
    assert [each.id for each in quarantine.waiting()] == [each for n, each in enumerate(ids) if n not in chosen]
    assert threestage(*words).stdout == "0 rows dropped\n"


def test_accepted_rows_are_in_their_inboxes_once_as_they_came_and_dvc_holds_them(quarantine):
    rows = [dict(each.row) for each in quarantine.waiting()]
    inbox = Path("data/inbox/emails/feedback.jsonl")
    assert threestage("accept", "emails").stdout.splitlines() == [
        "3 rows accepted",
        f"for git and DVC's remote: git add {inbox}.dvc && dvc push",
    ]
    assert [row for _, row in read_json_lines(inbox)] == rows[:3]
    before = Path(f"{inbox}.dvc").read_text()
    assert json.loads(threestage("accept", "emails", "--json").stdout)["accepted"] == 0
    quarantine.add("emails", rows[0] | {"subject": "More"}, "network 3", "m/1")
    assert threestage("accept", "all").stdout.startswith("3 rows accepted\n")
    assert [row for _, row in read_json_lines(inbox)][:3] == rows[:3]
    assert Path(f"{inbox}.dvc").read_text() != before
    assert quarantine.waiting() == []


def test_what_cannot_be_accepted_is_said_in_a_line_and_goes_on_waiting(quarantine):
    for words, code, said in (
        (["accept", "cafe"], 1, "error: no feedback 'cafe' waits; `threestage feedback` lists what does\n"),
        (["accept"], 2, "Missing argument 'WHICH'"),
    ):
        done = threestage(*words)
        assert (done.exit_code, said in done.stderr) == (code, True), done.stderr
    with exclusive(LOCK_FILE):
        done = threestage("accept", "all")
    assert done.exit_code == 1
    assert "which still runs" in done.stderr
    Path("dvc.yaml").unlink()
    assert "go to the project's folder" in threestage("accept", "all").stderr
    assert len(quarantine.waiting()) == 5


def test_on_the_page_a_reviewers_key_decides_and_no_other(quarantine):
    settings = Settings(api_keys=("a key",), reviewer_keys=("a reviewer's key",))
    state = SimpleNamespace(feedback=quarantine, settings=settings)
    for key in ("", "a key", "a reviewer's keys"):
        for refused in (lambda key=key: waiting(state, key), lambda key=key: decide(state, key, "all", "dropped")):
            with pytest.raises(RequestError, match="this is no reviewer's key"):
                refused()
    lines = waiting(state, " a reviewer's key")
    assert [line[1:4] for line in lines][:2] == [["emails", "contradicts", "spam"], ["emails", "new", "spam"]]
    assert decide(state, "a reviewer's key", f"{lines[0][0]} instructions", "dropped") == 3
    assert decide(state, "a reviewer's key", "all", "accepted") == 2
    assert waiting(state, "a reviewer's key") == []
    with pytest.raises(RequestError):
        waiting(SimpleNamespace(feedback=quarantine, settings=Settings()), "")
