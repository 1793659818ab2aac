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
        ("emails", "mbox", MBOX.encode(), "mbox/mbox: no file or folder name says"),
        ("corpus", "a.txt", "Drei Söhne.".encode("latin-1"), "a/a.txt, row 1: byte 0xf6 is not UTF-8"),
        ("corpus", "program", b"\x7fELF\0\0", "no text, and"),
        ("instructions", "program", b"\x7fELF\0\0", "no table of i"),
        ("corpus", "a.csv", b"\n", "a.csv: 1 bytes"),
    ],
    ids=["unlabelled mailbox", "text in Latin-1", "program", "no table", "empty file"],
)
def test_check_names_the_reason_why_a_file_can_not_be_read(
    dataset: str, name: str, content: bytes, reason: str
) -> None:
    Path(name).write_bytes(content)
    output = check(dataset, name, code=1)
    assert f"as {dataset}: 0 rows" in output
    assert reason in output
    assert "to take them in" not in output


def test_labels_beyond_two_may_be_kept():
    Path("mails.csv").write_text("label,text\nham,hello there\nspam,win cash\nnewsletter,read this\n")
    labels = "labels: [ham, spam, newsletter]"
    assert f"or keep them, below datasets.emails.preprocess: {labels}\n" in check("emails", "mails.csv", code=1)
    params = Path("params.yaml").read_text()
    Path("params.yaml").write_text(params.replace("labels: [ham, spam]", labels))
    assert "as emails: 3 rows (1 ham, 1 spam, 1 newsletter)\n" in check("emails", "mails.csv")


def test_column_of_labels_with_an_unusual_name_is_named_by_an_option() -> None:
    rows = [f"{('inbox', 'junk')[n % 3 == 0]},Number {n},This is mail number {n}\n" for n in range(30)]
    Path("own mails.csv").write_text(f"folder,subject,body\n{''.join(rows)}")
    output = check("emails", "own mails.csv", code=1)
    assert "problems: 30 that stop the stage\n" in output
    assert "may name one of folder, subject, body\n" in output
    assert output.count("no label; ") == 20
    assert "  and 10 more\n" in output
    mapped = ["emails", "own mails.csv", "--column=label=folder"]
    assert "row 2: label 'junk' is not one of ham, spam\n" in check(*mapped, code=1)
    output = check(*mapped, "--label=inbox=ham", "--label=junk=spam")
    assert "\nas emails: 30 rows (20 ham, 10 spam)\n" in output
    assert '\nand below datasets.emails.preprocess: columns: {"label": "folder"}\n' in output


def test_inbox_files_need_no_line_and_get_none():
    Path("data/inbox/emails").mkdir(parents=True)
    Path("mails.csv").rename("data/inbox/emails/mails.csv")
    for path in ("data/inbox/emails/mails.csv", "file:data/inbox/emails", "data/inbox/*/mails.csv"):
        output = check("emails", path)
        assert "as emails: 9 rows" in output
        assert "needs no line in params.yaml, which would add it twice" in output
        assert "to take them in" not in output


def test_problem_has_its_file_and_row_and_labels_can_be_mapped():
    Path("mails.csv").write_text("label,subject,body\nham,a,b\n1,c,d\nspam,e\n0,f,g\n")
    output = check("emails", "mails.csv", code=1)
    assert "as emails: 1 rows (1 ham)\n" in output
    assert "  mails/mails.csv, row 3: label '1' is not one of ham, spam\n" in output
    assert "  mails/mails.csv, row 4: fewer cells than columns (2, not 3); add what is missing\n" in output
    assert "map these labels with --label 0=… --label 1=…\n" in output
    Path("mails.csv").write_text("label,body\n0,hello\n1,win cash\n")
    output = check("emails", "mails.csv", code=1)
    assert "as emails: 0 rows\n" in output
    assert "to take them in" not in output
    labels = ("--label=0=ham", "--label=1=spam")
    output = check("emails", "mails.csv", *labels)
    assert output.endswith('and below datasets.emails.preprocess: label_map: {"0": "ham", "1": "spam"}\n')


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["corpus", "nowhere"], "error: nowhere: no such file or folder"),
        (
            ["mails", "mails.csv"],
            "error: there is no dataset 'mails'; those are corpus, emails, instructions, requests",
        ),
        (["emails", "mails.csv", "--label", "1=smap"], "label_map: 'smap' is not one of"),
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
