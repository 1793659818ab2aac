"""`threestage feedback` and the page's tab over a quarantine with some rows."""

import json
import os
import pty
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
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
from tasks.datasets import find
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
        f"{ids[1]}  emails  new  spam  Won a cruise for two\ufffd\ufffd  2 wordings  network 1 x1 network 2 x1  m/1",
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
    words = ["drop", "--yes", *(word.format(*ids) for word in words)]
    assert threestage(*words).stdout == f"{len(chosen)} rows dropped\n"
    assert [each.id for each in quarantine.waiting()] == [each for n, each in enumerate(ids) if n not in chosen]
    assert threestage(*words).stdout == "0 rows dropped\n"


def test_accepted_rows_are_in_their_inboxes_once_as_they_came_and_dvc_holds_them(quarantine):
    rows = [dict(each.row) for each in quarantine.waiting()]
    inbox = Path("data/inbox/emails/feedback.jsonl")
    assert threestage("accept", "--yes", "emails").stdout.splitlines() == [
        "3 rows accepted",
        f"for git and DVC's remote: git add {inbox}.dvc && dvc push",
    ]
    assert [*map(json.loads, inbox.read_bytes().splitlines())] == rows[:3]
    before = Path(f"{inbox}.dvc").read_text()
    assert json.loads(threestage("accept", "--yes", "emails", "--json").stdout)["accepted"] == 0
    quarantine.add("emails", rows[0] | {"subject": "More"}, "network 3", "m/1")
    assert threestage("accept", "--yes", "all").stdout.startswith("3 rows accepted\n")
    assert [*map(json.loads, inbox.read_bytes().splitlines())][:3] == rows[:3]
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
        done = threestage("accept", "--yes", "all")
    assert done.exit_code == 1
    assert "which still runs" in done.stderr
    Path("dvc.yaml").unlink()
    assert "go to the project's folder" in threestage("accept", "--yes", "all").stderr
    assert len(quarantine.waiting()) == 5


def test_on_the_page_a_reviewers_key_decides_and_no_other(quarantine):
    settings = Settings(api_keys=("a key",), reviewer_keys=("a reviewer's key",))
    state = SimpleNamespace(feedback=quarantine, settings=settings)
    for key in ("", "a key", "a reviewer's keys"):
        for refused in (lambda key=key: waiting(state, key), lambda key=key: decide(state, key, [], "all", "dropped")):
            with pytest.raises(RequestError, match="this is no reviewer's key"):
                refused()
    shown = waiting(state, " a reviewer's key")
    assert [each.change for each in shown] == ["contradicts", "new", "bad answer", "not known"]
    assert decide(state, "a reviewer's key", shown, f"{shown[0].id} instructions", "dropped") == 3
    assert decide(state, "a reviewer's key", shown, "all", "accepted") == 2
    assert waiting(state, "a reviewer's key") == []
    with pytest.raises(RequestError):
        waiting(SimpleNamespace(feedback=quarantine, settings=Settings()), "")


def test_on_the_page_rows_that_came_after_the_list_go_on_waiting(quarantine):
    state = SimpleNamespace(feedback=quarantine, settings=Settings(reviewer_keys=("a key",)))
    shown = waiting(state, "a key")
    late = {"label": "spam", "subject": "Won", "body": "a cruise for two!"}
    quarantine.add("emails", late, "network 3", "m/1")
    assert decide(state, "a key", shown, f"all emails {shown[1].id}", "accepted") == 5
    assert [each.client for each in quarantine.waiting()] == ["network 3"]
    assert decide(state, "a key", shown, "all", "accepted") == 0


@pytest.fixture
def terminal(monkeypatch) -> Iterator[Callable[[str], None]]:
    """Makes stdin a terminal at which this was typed."""
    typed, stdin = pty.openpty()
    with os.fdopen(stdin) as file:
        monkeypatch.setattr(sys, "stdin", file)
        yield lambda said: os.write(typed, said.encode())
    os.close(typed)


def test_rows_that_were_not_named_one_by_one_are_asked_about_at_a_terminal(quarantine, terminal, capsys):
    ids = [each.id for each in quarantine.waiting()]
    for said, words, asked, left in (
        ("n\n", ["accept", "all"], "accept 5 rows in 4 texts", 5),
        ("", ["drop", ids[1], ids[2]], "", 3),
        ("y\n", ["accept", "network 1"], "accept 2 rows in 2 texts", 1),
    ):
        terminal(said)
        with suppress(SystemExit):
            cli(["feedback", *words])
        shown = capsys.readouterr().err
        assert shown.partition("?")[0] == asked, shown
        assert len(quarantine.waiting()) == left


def test_without_a_terminal_a_group_is_refused_and_rows_by_their_ids_are_taken(quarantine):
    ids = [each.id for each in quarantine.waiting()]
    for name, what in (("all", "5 rows in 4 texts"), ("network 2", "2 rows in 2 texts"), (ids[1], "2 rows in 1 texts")):
        done = threestage("accept", name)
        assert done.exit_code == 1
        assert done.stderr == f"error: this would accept {what}; name each row by its ID, or add --yes\n"
    assert len(quarantine.waiting()) == 5
    assert threestage("accept", ids[0], ids[1], ids[2]).stdout.startswith("3 rows accepted\n")


def test_the_text_that_is_shown_is_read_whole_and_is_the_one_that_is_learned(quarantine):
    first = " ".join(f"word{n}" for n in range(200))
    second = f"{first} {' '.join(f'trigger{n}' for n in range(20))}"
    for body in (first, second):
        quarantine.add("emails", {"label": "ham", "subject": "Long", "body": f"{body}\nsays: \x1b"}, "network 4", "m/1")
    id_ = quarantine.waiting()[-2].id
    (line,) = [line for line in threestage().stdout.splitlines() if line.startswith(id_)]
    assert line.endswith("  2 wordings  network 4 x2  m/1")
    assert threestage("show", id_).stdout.splitlines() == [
        f"{id_}  emails  new",
        "says:",
        "    ham",
        "text, from network 4:",
        *("    Long", f"    {first}", "    says: \ufffd"),
        "another wording, from network 4:",
        *("    Long", f"    {second}", "    says: \ufffd"),
    ]
    assert "no feedback 'cafe' waits" in threestage("show", "cafe").stderr
    assert json.loads(threestage("show", id_, "--json").stdout)[0]["text"] == f"Long\n{first}\nsays: \x1b"
    assert threestage("accept", "--yes", id_).stdout.startswith("2 rows accepted\n")
    emails = find("emails")
    params = emails.params(seed=1, validation=0.1, test=0.1, near_duplicate=0.8)
    learned = emails.read(Path("data/inbox/emails"), params)
    assert [body.splitlines()[0] for body in learned["body"]] == [first]
