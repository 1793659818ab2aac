"""`threestage data check` looks at people's files and prints the lines of params.yaml that take them in."""

import hashlib
import re
import shutil
from pathlib import Path

import pytest
import yaml
from projects import ROOT
from typer.testing import CliRunner

from cli.main import cli
from tasks.data.sources import Source, write_source
from tasks.params import load_dataset
from tests.app.conftest import error_of

PAGE = (ROOT / "docs/your-data.md").read_text()
MAILS = "".join(f"{('ham', 'spam')[n % 3 == 0]},Number {n},This is mail number {n}\n" for n in range(9))
TALK = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}'
MBOX = "From a@b.example Thu Aug 22 12:36:23 2002\nFrom: a@b.example\nSubject: Hi\n\nThe cat sat.\n\n" * 2
STORY = "Once upon a time there was a miller."


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch) -> Path:
    """A folder with our own params.yaml and a table of mails."""
    monkeypatch.chdir(tmp_path)
    Path("dvc.yaml").write_text("stages: {}\n")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    Path("mails.csv").write_text(f"label,subject,body\n{MAILS}")
    return tmp_path


def check(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(cli, ["data", "check", *arguments])
    assert result.exit_code == code, result.output
    return result.output


def test_docs_show_what_check_prints():
    shown = re.findall(r"^```text\n\$ threestage data check (.*?)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    for name, content in re.findall(r"^```\w*\n# (\S+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
        Path(name).write_text(content)
    assert len(shown) == 2
    for command, output in shown:
        assert CliRunner().invoke(cli, ["data", "check", *command.split()]).output == output


def test_docs_lines_are_sources():
    lines = re.findall(r"^\| [^|]+ \| `- (.*?)` \|", PAGE, re.MULTILINE)
    assert len(lines) > 20
    for line in lines:
        Source.model_validate(yaml.safe_load(line))


@pytest.mark.parametrize(
    ("dataset", "name", "content", "summary"),
    [
        ("corpus", "a.txt", STORY, "as corpus: 1 rows"),
        ("corpus", "a.csv", "id,title,text\n1,Mill,Once\n2,Bread,Twice\n", "as corpus: 2 rows"),
        ("emails", "a [old].csv", f"label,subject,body\n{MAILS}", "as emails: 9 rows (6 ham, 3 spam)"),
        ("instructions", "a.jsonl", TALK, "as instructions: 1 rows"),
    ],
)
def test_check_counts_the_rows_that_a_dataset_reads(dataset: str, name: str, content: str, summary: str) -> None:
    Path(name).write_text(content)
    assert f"\n{summary}\n" in check(dataset, name)


@pytest.mark.parametrize(
    ("dataset", "name", "content", "reason"),
    [
        ("emails", "mbox", MBOX.encode(), "--label-of"),
        ("emails", "a.csv", b"subject,body\na,b\n", "--column label=NAME"),
        ("corpus", "program", b"\x7fELF\0\0", "program"),
        ("instructions", "program", b"\x7fELF\0\0", "program"),
        ("corpus", "a.csv", b"\n", "the file is empty"),
    ],
    ids=["unlabelled mailbox", "no column of labels", "program", "no table", "empty file"],
)
def test_check_names_the_reason_why_a_file_can_not_be_read_once(
    dataset: str, name: str, content: bytes, reason: str
) -> None:
    Path(name).write_bytes(content)
    output = check(dataset, name, code=1)
    assert f"as {dataset}: 0 rows" in output
    assert output.count(reason) == 1 or reason == "program"
    assert "to take them in" not in output


def test_options_settle_what_is_unclear_and_are_printed_with_the_block() -> None:
    rows = [f"{('wanted', 'other')[n % 3 == 0]},Number {n},This is mail number {n}\n" for n in range(30)]
    Path("own mails.csv").write_text(f"folder,subject,body\n{''.join(rows)}")
    assert "problems that stop the stage: 1\n" in check("emails", "own mails.csv", code=1)
    mapped = ["emails", "own mails.csv", "--column=label=folder"]
    assert "'wanted'" in check(*mapped, code=1)
    output = check(*mapped, "--label=wanted=ham", "--label=other=spam")
    assert "\nas emails: 30 rows (20 ham, 10 spam)\n" in output
    assert '\nand below datasets.emails.preprocess: columns: {"label": "folder"}\n' in output
    Path("mbox").write_text(MBOX)
    output = check("emails", "mbox", "--label-of=mbox/*=spam")
    assert "\nas emails: 2 rows (2 spam)\n" in output
    assert output.endswith('preprocess: label_of: {"mbox/*": "spam"}\n')


def test_labels_beyond_two_may_be_kept() -> None:
    Path("mails.csv").write_text("label,text\nham,hello there\nspam,win cash\nnewsletter,read this\n")
    assert "'newsletter'" in check("emails", "mails.csv", code=1)
    params = Path("params.yaml").read_text()
    Path("params.yaml").write_text(params.replace("labels: [ham, spam]", "labels: [ham, spam, newsletter]"))
    assert "as emails: 3 rows (1 ham, 1 spam, 1 newsletter)\n" in check("emails", "mails.csv")


def test_problems_have_their_file_and_row() -> None:
    Path("mails.csv").write_text("label,subject,body\nham,a,b\nsmap,c,d\nspam,e\nham,f,g\n")
    output = check("emails", "mails.csv", code=1)
    assert "mails/mails.csv, row 3: " in output
    assert "mails/mails.csv, row 4: " in output


def test_inbox_files_need_no_line_and_get_none():
    Path("data/inbox/emails").mkdir(parents=True)
    Path("mails.csv").rename("data/inbox/emails/mails.csv")
    for path in ("data/inbox/emails/mails.csv", "file:data/inbox/emails", "data/inbox/*/mails.csv"):
        output = check("emails", path)
        assert "as emails: 9 rows" in output
        assert "needs no line in params.yaml, which would add it twice" in output
        assert "to take them in" not in output


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["corpus", "nowhere"], "error: nowhere: no such file or folder"),
        (
            ["mails", "mails.csv"],
            "error: params.yaml has no dataset 'mails'; it has corpus, emails, instructions, requests",
        ),
        (["emails", "mails.csv", "--label", "1=smap"], "'smap' is not one of"),
        (["emails", "mails.csv", "--label", "1"], "--label 1: write VALUE=LABEL, such as 1=spam"),
        (["emails", "mails.csv", "--column", "folder"], "--column folder: write OURS=NAME, such as label=folder"),
        (["corpus", "ftp://a/b"], "source: sources are npm:NAME@VERSION"),
    ],
)
def test_invalid_argument_is_one_line(arguments, reason):
    assert reason in error_of(CliRunner().invoke(cli, ["data", "check", *arguments]))


def paste(dataset: str, output: str) -> Source:
    """Put the block that `check` printed below the sources of a dataset, and read it."""
    _, _, lines = output.partition(f"put this below datasets.{dataset}.sources in params.yaml:\n")
    block = "".join(line for line in lines.splitlines(keepends=True) if line.startswith(" "))
    params = Path("params.yaml").read_text()
    before, name, after = params.partition(f"  {dataset}:\n")
    after = after.replace("    sources:\n", f"    sources:\n{block}", 1)
    Path("params.yaml").write_text(before + name + after)
    return load_dataset(dataset).sources[0]


def test_printed_block_pins_a_file_and_a_folder(tmp_path):
    source = paste("emails", check("emails", "mails.csv"))
    assert (source.source, source.sha256) == ("mails.csv", hashlib.sha256(Path("mails.csv").read_bytes()).hexdigest())
    for name in ("notes/a.md", "notes/b/c.md"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(name)
    source = paste("corpus", check("corpus", "notes", "--files=*.md"))
    assert (source.source, source.files) == ("notes", "*.md")
    Path("notes/b/c.md").write_text("changed")
    (tmp_path / "raw").mkdir()
    with pytest.raises(ValueError, match=r"^notes: its sha256 is "):
        write_source(source, tmp_path / "raw")
