"""`threestage data check` looks at people's files and prints the lines of params.yaml that take them in."""

import hashlib
import json
import re
import shutil
import tracemalloc
from pathlib import Path

import pytest
import yaml
from projects import ROOT
from typer.testing import CliRunner

from app.command import cli
from tasks.data.sources import Source, fetch_source
from tasks.stages.params import check_params, load_dataset
from tests.app.conftest import error_of

PAGE = (ROOT / "docs/your-data.md").read_text()
MAILS = "".join(f"{('ham', 'spam')[n % 3 == 0]},Number {n},This is mail number {n}\n" for n in range(9))


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A folder with our own params.yaml."""
    monkeypatch.chdir(tmp_path)
    Path("dvc.yaml").write_text("stages: {}\n")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    Path("mails.csv").write_text(f"label,subject,body\n{MAILS}")
    return tmp_path


def said(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(cli, ["data", *arguments])
    assert result.exit_code == code, result.output
    return result.output


def test_the_page_shows_what_check_prints(project):
    shown = re.findall(r"^```text\n\$ threestage data (check .*?)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    files = re.findall(r"^```\w*\n# (\S+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert len(shown) == 2
    for name, content in files:
        Path(name).write_text(content)
    for command, output in shown:
        result = CliRunner().invoke(cli, ["data", *command.split()])
        assert result.output == output


def test_each_line_of_the_page_is_a_source():
    lines = re.findall(r"^\| [^|]+ \| `- (.*?)` \|", PAGE, re.MULTILINE)
    assert len(lines) > 20
    for line in lines:
        Source.model_validate(yaml.safe_load(line))


@pytest.mark.parametrize(
    ("name", "content", "dataset"),
    [
        ("a.txt", "Once upon a time there was a miller.", "corpus"),
        ("a.csv", f"label,subject,body\n{MAILS}", "emails"),
        (
            "a.jsonl",
            '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}',
            "instructions",
        ),
        ("a.json", '[{"instruction": "a", "input": null, "output": "b", "text": "a b"}]', "instructions"),
    ],
)
def test_check_finds_the_dataset_that_files_are_for(project, name, content, dataset):
    Path(name).write_text(content)
    assert f"\nas {dataset}: " in said("check", name)


MBOX = "From a@b.example Thu Aug 22 12:36:23 2002\nFrom: a@b.example\nSubject: Hi\n\nThe cat sat.\n\n" * 2
UNREADABLE = {
    "an unlabelled mailbox": (
        "mbox",
        MBOX,
        ["as emails: 0 rows", "mbox/mbox: no file or folder name says"],
    ),
    "text in Latin-1": (
        "a.txt",
        "Ein Müller hatte drei Söhne.".encode("latin-1"),
        ["as corpus: 0 rows", "a/a.txt, row 1: byte 0xfc is not UTF-8", "as emails: 0 rows", "no file or folder name"],
    ),
    "a table in Latin-1": (
        "a.csv",
        "label,text\nham,Grüße\n".encode("latin-1"),
        ["as any dataset: 0 rows", "a/a.csv, row 2: byte 0xfc is not UTF-8; save the file as UTF-8, or give"],
    ),
    "a program": (
        "program",
        b"\x7fELF\0\0",
        [
            "as corpus: 0 rows",
            "no text, and",
            "as emails: 0 rows",
            "no email",
            "as instructions: 0 rows",
            "no table of i",
        ],
    ),
    "a PDF": ("a.pdf", "%PDF-1.4\n1 0 obj\n", ["as any dataset: 0 rows", "a/a.pdf: a PDF; save its text as .txt"]),
    "an empty file": ("a.csv", "\n", ["a.csv: empty, 1 bytes", "as any dataset: 0 rows"]),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_no_dataset_can_read_has_its_own_reason(project, kind):
    name, content, reasons = UNREADABLE[kind]
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    output = said("check", name, code=1)
    places = [output.find(reason) for reason in reasons]
    assert -1 not in places, output
    assert places == sorted(places)
    assert output.count("\nas ") == sum(reason.startswith("as ") for reason in reasons)


def test_a_pdf_is_left_out_of_its_folder_and_said(project):
    Path("texts").mkdir()
    Path("texts/a.txt").write_text("Once upon a time there was a miller.")
    Path("texts/b.pdf").write_bytes(b"%PDF-1.7\n\0\1")
    assert "as corpus: 1 rows\n" in said("check", "texts")
    assert "  texts/b.pdf: a PDF; save its text as .txt\n" in said("check", "texts")


def test_labels_that_are_more_than_two_may_be_labels_of_their_own(project):
    Path("mails.csv").write_text("label,text\nham,hello there\nspam,win cash\nnewsletter,read this\n")
    advice = "or, as labels of their own, below datasets.emails.preprocess: labels: [ham, spam, newsletter]\n"
    assert advice in said("check", "mails.csv", code=1)
    params = Path("params.yaml").read_text()
    Path("params.yaml").write_text(params.replace("labels: [ham, spam]", "labels: [ham, spam, newsletter]"))
    assert "as emails: 3 rows (1 ham, 1 spam, 1 newsletter)\n" in said("check", "mails.csv")


def test_what_lies_in_the_inbox_needs_no_line(project):
    Path("data/inbox/emails").mkdir(parents=True)
    Path("mails.csv").rename("data/inbox/emails/mails.csv")
    for path in ("data/inbox/emails/mails.csv", "file:data/inbox/emails", "data/inbox/*/mails.csv"):
        output = said("check", path)
        assert "as emails: 9 rows" in output
        assert "needs no line in params.yaml, which would add it twice" in output
        assert "to take them in" not in output


def test_check_names_each_problem_with_file_and_row_and_ends_with_1(project):
    Path("mails.csv").write_text("label,subject,body\nham,a,b\n1,c,d\nspam,e\n0,f,g\n")
    output = said("check", "mails.csv", "--as", "emails", code=1)
    assert "as emails: 1 rows (1 ham)\n" in output
    assert "  mails/mails.csv, row 3: label '1' is not one of ham, spam\n" in output
    assert "  mails/mails.csv, row 4: fewer cells than columns (2, not 3); add what is missing\n" in output
    assert "say what these labels mean with --label 0=… --label 1=…\n" in output
    assert "as emails: 3 rows (2 ham, 1 spam)\n" in said(
        "check", "mails.csv", "--label=0=ham", "--label=1=spam", code=1
    )


def test_labels_that_nobody_knows_are_asked_for_and_make_no_corpus_of_mails(project):
    Path("mails.csv").write_text("label,body\n0,hello\n1,win cash\n")
    output = said("check", "mails.csv", code=1)
    assert "as emails: 0 rows\n" in output
    assert "say what these labels mean with --label 0=… --label 1=…" in output
    assert "to take them in" not in output
    output = said("check", "mails.csv", "--label=0=ham", "--label=1=spam")
    assert output.endswith('and below datasets.emails.preprocess: label_map: {"0": "ham", "1": "spam"}\n')


def test_what_check_can_not_read_is_one_line(project):
    assert error_of(CliRunner().invoke(cli, ["data", "check", "nowhere"])) == "error: nowhere: no such file or folder"
    said_ = error_of(CliRunner().invoke(cli, ["data", "check", "mails.csv", "--as", "mails"]))
    assert said_ == "error: there is no dataset 'mails'; those are corpus, emails, instructions"


def paste(dataset: str, output: str) -> None:
    """Put what `check` printed below the sources of a dataset, as a person does."""
    _, _, lines = output.partition(f"to take them in, put this below datasets.{dataset}.sources in params.yaml:\n")
    block = "".join(line for line in lines.splitlines(keepends=True) if line.startswith(" "))
    params = Path("params.yaml").read_text()
    place = params.index("    sources:\n", params.index(f"  {dataset}:\n")) + len("    sources:\n")
    Path("params.yaml").write_text(params[:place] + block + params[place:])


def fetched(dataset: str, folder: Path) -> dict:
    folder.mkdir(exist_ok=True)
    return fetch_source.fn(load_dataset(dataset).sources[0], folder)


def test_the_printed_block_pins_a_file(project, tmp_path):
    paste("emails", said("check", "mails.csv"))
    check_params()
    first = load_dataset("emails").sources[0]
    assert (first.source, first.sha256) == ("mails.csv", hashlib.sha256(Path("mails.csv").read_bytes()).hexdigest())
    assert fetched("emails", tmp_path / "raw")["sha256"] == first.sha256


def test_the_printed_block_pins_a_folder_by_the_list_of_its_files(project, tmp_path):
    for name in ("notes/a.md", "notes/b/c.md"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(name)
    paste("corpus", said("check", "notes", "--files", "*.md", "--as", "corpus"))
    source = load_dataset("corpus").sources[0]
    assert (source.source, source.files) == ("notes", "*.md")
    (project / "notes/b/c.md").write_text("changed")
    with pytest.raises(ValueError, match=r"^notes: its sha256 is "):
        fetched("corpus", tmp_path / "raw")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("mails.csv", "--as", "emails", "--label", "1=smap"), "--label: label_map: 'smap' is not one of"),
        (("mails.csv", "--as", "emails", "--label", "1"), "--label 1: write VALUE=LABEL, such as 1=spam"),
        (("ftp://a/b",), "source: sources are npm:NAME@VERSION"),
    ],
)
def test_a_wrong_option_is_one_line(project, arguments, reason):
    assert reason in error_of(CliRunner().invoke(cli, ["data", "check", *arguments]))


def test_a_file_with_a_wildcard_in_its_name_is_checked(project):
    Path("mails.csv").rename("mails [old].csv")
    assert "as emails: 9 rows (6 ham, 3 spam)\n" in said("check", "mails [old].csv")


def test_check_holds_no_whole_corpus(project):
    with Path("texts.jsonl").open("w") as file:
        for number in range(1_000):
            text = f"Document {number} tells of a miller and of his three sons. " * 400
            file.write(json.dumps({"text": text, "number": number}) + "\n")
    size = Path("texts.jsonl").stat().st_size
    assert size > 20e6
    tracemalloc.start()
    output = said("check", "texts.jsonl", "--as", "corpus")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "as corpus: 1000 rows\n" in output
    assert output.count("    text: Document ") == 3
    assert most < size / 2
