"""`threestage feedback` over a table with some rows."""

import json
from pathlib import Path

import pytest
from dvc.repo import Repo
from projects import git
from typer.testing import CliRunner, Result

from app.feedback import Feedback
from app.settings import Settings
from cli.main import cli
from tasks.data.inbox import open_inbox
from tasks.stages.hashes import LOCK
from tasks.stages.lock import exclusive
from tests.app.conftest import error_of, rows_of

CURATED = "the minutes of the meeting on Tuesday are attached to this mail for you to read"


@pytest.fixture
def waiting_feedback(tmp_path, monkeypatch) -> Feedback:
    """In a project: three rows of one network, of which one is nearly equal to one of two rows of another."""
    monkeypatch.chdir(tmp_path)
    Path("dvc.yaml").write_text("{}")
    git(tmp_path, "init", "--quiet")
    Repo.init().close()
    for name in ("emails", "instructions"):
        open_inbox(name)
    waiting_feedback = Feedback(Settings())
    for label, subject, body, client in (
        ("spam", "Minutes", CURATED + "!\u2028", "network 1"),
        ("spam", "Won", "a cruise for two\x1b\u202e", "network 1"),
        ("spam", "WON", "A cruise, for two", "network 2"),
    ):
        waiting_feedback.add("emails", {"label": label, "subject": subject, "body": body}, client=client, version="m/1")
    answer = {"instruction": "Who?", "output": "Me.", "system": "", "history": []}
    waiting_feedback.add("instructions", answer | {"verdict": "good"}, client="network 2", version="a/1")
    waiting_feedback.add(
        "instructions", answer | {"instruction": "What?", "verdict": "bad"}, client="network 1", version="a/1"
    )
    return waiting_feedback


def ids_of(waiting_feedback: Feedback) -> list[str]:
    return [feedback.id for feedback in waiting_feedback.waiting()]


def threestage(*words: str) -> Result:
    return CliRunner().invoke(cli, ["feedback", *words])


def test_list_has_a_line_a_row_and_no_control_character(waiting_feedback):
    ids = ids_of(waiting_feedback)
    assert threestage().stdout.splitlines() == [
        "5 rows wait",
        f"{ids[0]}  emails  spam  Minutes {CURATED}!  network 1  m/1",
        f"{ids[1]}  emails  spam  Won a cruise for two  network 1  m/1",
        f"{ids[2]}  emails  spam  WON A cruise, for two  network 2  m/1",
        f"{ids[3]}  instructions  Me.  Who?  network 2  a/1",
        f"{ids[4]}  instructions  bad answer  What?  network 1  a/1",
    ]
    rows = json.loads(threestage("--json").stdout)
    assert [(row["id"], row["client"]) for row in rows][:2] == [(ids[0], "network 1"), (ids[1], "network 1")]


@pytest.mark.parametrize(
    ("words", "chosen"),
    [
        (["{1}"], [1]),
        (["network 2"], [2, 3]),
        (["emails"], [0, 1, 2]),
        (["{0}", "instructions", "{0}"], [0, 3, 4]),
        (["all"], [0, 1, 2, 3, 4]),
    ],
)
def test_drop_chooses_rows_by_id_network_dataset_or_all(waiting_feedback, words, chosen):
    ids = ids_of(waiting_feedback)
    names = [word.format(*ids) for word in words]
    dropped = threestage("drop", "--yes", *names)
    assert dropped.stdout == f"{len(chosen)} rows dropped\n"
    assert ids_of(waiting_feedback) == [id_ for number, id_ in enumerate(ids) if number not in chosen]


def test_accept_puts_rows_as_they_came_into_inboxes_of_dvc_once(waiting_feedback):
    rows = [dict(feedback.row) for feedback in waiting_feedback.waiting()]
    inbox = Path("data/inbox/emails/feedback.jsonl")
    assert threestage("accept", "--yes", "emails").stdout.splitlines() == [
        "3 rows accepted",
        f"for git and DVC's remote: git add {inbox}.dvc && dvc push",
    ]
    assert rows_of(inbox.read_text()) == rows[:3]
    before = Path(f"{inbox}.dvc").read_text()
    waiting_feedback.add("emails", rows[0] | {"subject": "More"}, client="network 3", version="m/1")
    assert threestage("accept", "--yes", "all").stdout.startswith("3 rows accepted\n")
    assert rows_of(inbox.read_text())[:3] == rows[:3]
    assert Path(f"{inbox}.dvc").read_text() != before
    assert waiting_feedback.waiting() == []
    assert threestage("accept", "--yes", "all").stdout.startswith("0 rows accepted\n")


def test_accept_that_fails_leaves_rows_waiting(waiting_feedback):
    reason = "error: no feedback 'cafe' waits; `threestage feedback` lists what does"
    assert error_of(threestage("accept", "cafe")) == error_of(threestage("show", "cafe")) == reason
    with exclusive(str(LOCK)):
        assert "which still runs" in error_of(threestage("accept", "--yes", "all"))
    Path("dvc.yaml").unlink()
    assert "go to the project's folder" in error_of(threestage("accept", "--yes", "all"))
    assert len(ids_of(waiting_feedback)) == 5


def test_accept_needs_a_yes_for_a_group_and_none_for_ids(waiting_feedback):
    ids = ids_of(waiting_feedback)
    for name, what in (("all", "5 rows"), ("network 2", "2 rows")):
        error = error_of(threestage("accept", name))
        assert error == f"error: {what} would be accepted; name each row by its ID, or add --yes"
    assert ids_of(waiting_feedback) == ids
    assert threestage("accept", *ids[:3]).stdout.startswith("3 rows accepted\n")


def test_show_has_whole_texts(waiting_feedback):
    body = " ".join(f"word{n}" for n in range(200))
    mail = {"label": "ham", "subject": "Long", "body": f"{body}\nsays: \x1b"}
    waiting_feedback.add("emails", mail, client="network 4", version="m/1")
    *_, bad, number = ids_of(waiting_feedback)
    assert threestage("show", number).stdout.splitlines() == [
        f"{number}  emails  network 4",
        "says:",
        "    ham",
        "text:",
        *("    Long", f"    {body}", "    says:  "),
    ]
    assert "answer:\n    Me.\n" in threestage("show", bad).stdout
