"""`threestage data` looks at people's files, and takes them in by a block of params.yaml."""

import hashlib
import json
import re
import shutil
import tracemalloc
import zipfile
from pathlib import Path

import pytest
import yaml
from projects import ROOT
from typer.testing import CliRunner

from app.command import cli
from app.params_file import add_source
from tasks.data.local import digest
from tasks.data.sources import Source
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
    before = Path("params.yaml").read_text()
    said("add", "emails", name, code=1)
    assert Path("params.yaml").read_text() == before


def test_a_pdf_is_left_out_of_its_folder_and_said(project):
    Path("texts").mkdir()
    Path("texts/a.txt").write_text("Once upon a time there was a miller.")
    Path("texts/b.pdf").write_bytes(b"%PDF-1.7\n\0\1")
    for command in (["check", "texts"], ["add", "corpus", "texts"]):
        assert "as corpus: 1 rows\n" in said(*command)
    assert "  texts/b.pdf: a PDF; save its text as .txt\n" in said("check", "texts")


def test_labels_that_are_more_than_two_may_be_labels_of_their_own(project):
    Path("mails.csv").write_text("label,text\nham,hello there\nspam,win cash\nnewsletter,read this\n")
    advice = "or, as labels of their own, below datasets.emails.preprocess: labels: [ham, spam, newsletter]\n"
    assert advice in said("check", "mails.csv", code=1)
    params = Path("params.yaml").read_text()
    Path("params.yaml").write_text(params.replace("labels: [ham, spam]", "labels: [ham, spam, newsletter]"))
    assert "as emails: 3 rows (1 ham, 1 spam, 1 newsletter)\n" in said("check", "mails.csv")


def test_what_lies_in_the_inbox_is_not_added_a_second_time(project):
    Path("data/inbox/emails").mkdir(parents=True)
    Path("mails.csv").rename("data/inbox/emails/mails.csv")
    for path in ("data/inbox/emails/mails.csv", "file:data/inbox/emails", "data/inbox/*/mails.csv"):
        output = said("check", path)
        assert "as emails: 9 rows" in output
        assert "needs no line in params.yaml, which would add it twice" in output
        assert "to take them in" not in output
        assert "is not taken in: what lies in data/inbox needs no line" in said("add", "emails", path, code=1)


def test_check_names_each_problem_with_file_and_row_and_ends_with_1(project):
    Path("mails.csv").write_text("label,subject,body\nham,a,b\n1,c,d\nspam,e\n0,f,g\n")
    output = said("check", "mails.csv", "--as", "emails", code=1)
    assert "as emails: 1 rows (1 ham)\n" in output
    assert "  mails/mails.csv, row 3: label '1' is not one of ham, spam\n" in output
    assert "  mails/mails.csv, row 4: fewer cells than columns (2, not 3); add what is missing\n" in output
    assert "say what these labels mean with --label 0=… --label 1=…, here and to `threestage data add`\n" in output
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


def test_what_would_stop_the_next_run_is_not_added(project):
    Path("mails.csv").write_text("label,subject,body\nham,a,b\n1,c,d\n")
    before = Path("params.yaml").read_text()
    result = CliRunner().invoke(cli, ["data", "add", "emails", "mails.csv"])
    assert error_of(result) == "error: mails.csv is not taken in: what is said above would stop `threestage run`"
    assert "  mails/mails.csv, row 3: label '1' is not one of ham, spam\n" in result.output
    assert Path("params.yaml").read_text() == before


def test_what_check_can_not_read_is_one_line(project):
    assert error_of(CliRunner().invoke(cli, ["data", "check", "nowhere"])) == "error: nowhere: no such file or folder"
    said_ = error_of(CliRunner().invoke(cli, ["data", "check", "mails.csv", "--as", "mails"]))
    assert said_ == "error: there is no dataset 'mails'; those are corpus, emails, instructions"


def test_add_writes_a_block_with_its_hash_and_leaves_the_rest_of_the_file_as_it_is(project):
    before = Path("params.yaml").read_text().splitlines()
    said("add", "emails", "mails.csv")
    after = Path("params.yaml").read_text().splitlines()
    added = [line for line in after if line not in before]
    assert [line for line in after if line not in added] == before
    digest = load_dataset("emails").sources[-1].sha256
    assert added == ["      - source: mails.csv", f"        sha256: {digest}"]
    assert fetched(project)["sha256"] == digest


def fetched(folder: Path) -> dict:
    from tasks.data.sources import fetch_source

    raw = folder / "raw"
    raw.mkdir()
    return fetch_source.fn(load_dataset("emails").sources[-1], raw)


def test_add_renews_the_hash_of_files_that_changed(project):
    said("add", "emails", "mails.csv")
    first = Path("params.yaml").read_text()
    Path("mails.csv").write_text("label,subject,body\nham,a,b\n")
    assert "renewed" in said("add", "emails", "mails.csv")
    second = Path("params.yaml").read_text()
    changed = [(a, b) for a, b in zip(first.splitlines(), second.splitlines(), strict=True) if a != b]
    assert len(changed) == 1
    assert "sha256" in changed[0][0]


def test_a_dataset_of_the_hub_is_renewed_by_its_new_commit_and_another_one_stays(project):
    before = [each.source for each in load_dataset("corpus").sources]
    for name in ("owner/name@1a2b", "owner/other@3c4d", "owner/name@5e6f"):
        add_source("corpus", {"source": f"hf:{name}"}, {})
    after = [each.source for each in load_dataset("corpus").sources]
    assert after == [*before, "hf:owner/name@5e6f", "hf:owner/other@3c4d"]


def test_add_pins_a_folder_by_the_list_of_its_files(project):
    for name in ("notes/a.md", "notes/b/c.md"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(name)
    said("add", "corpus", "notes", "--files", "*.md")
    (project / "raw").mkdir()
    source = load_dataset("corpus").sources[-1]
    assert (source.source, source.files) == ("notes", "*.md")
    (project / "notes/b/c.md").write_text("changed")
    from tasks.data.sources import fetch_source

    with pytest.raises(ValueError, match=r"^notes: its sha256 is "):
        fetch_source.fn(source, project / "raw")


def test_add_writes_down_what_labels_mean(project):
    Path("mails.csv").write_text("spam,text\n0,a\n1,b\n")
    said("add", "emails", "mails.csv", "--label", "0=ham", "--label", "1=spam")
    assert load_dataset("emails").preprocess.label_map == {"0": "ham", "1": "spam"}
    assert "as emails: 2 rows (1 ham, 1 spam)\n" in said("check", "mails.csv")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("mails", "mails.csv"), "there is no dataset 'mails'; those are corpus, emails, instructions"),
        (
            ("emails", "mails.csv", "--label", "1=smap"),
            "--label: label_map: 'smap' is not one of",
        ),
        (("emails", "mails.csv", "--label", "1"), "--label 1: write VALUE=LABEL, such as 1=spam"),
        (
            ("emails", "mails.csv", "--name", "everyday-mail"),
            "file:data/everyday-mail.jsonl, mails.csv: all would be written",
        ),
        (("emails", "ftp://a/b"), "source: sources are npm:NAME@VERSION"),
    ],
)
def test_a_block_that_would_be_wrong_is_not_written(project, arguments, reason):
    before = Path("params.yaml").read_text()
    assert reason in error_of(CliRunner().invoke(cli, ["data", "add", *arguments]))
    assert Path("params.yaml").read_text() == before


def test_a_source_takes_the_place_of_all_others_and_can_go_again(project):
    output = said("add", "emails", "mails.csv", "--replace")
    gone = "train_only has everyday-mail/* no longer, which fits no source"
    assert f"params.yaml: datasets.emails.sources has this one instead of 2; {gone}\n" in output
    emails = load_dataset("emails")
    assert ([each.source for each in emails.sources], emails.preprocess.train_only) == (["mails.csv"], ())
    check_params()
    last = error_of(CliRunner().invoke(cli, ["data", "remove", "emails", "mails.csv"]))
    assert last == "error: mails.csv is the only source of emails; put another there with `data add --replace`"
    unknown = error_of(CliRunner().invoke(cli, ["data", "remove", "emails", "mail.csv"]))
    assert unknown == "error: emails has no sources 'mail.csv'; name one of mails.csv (mails)"


@pytest.mark.parametrize("named", ["file:data/everyday-mail.jsonl", "data/everyday-mail.jsonl", "everyday-mail"])
def test_a_source_is_removed_by_its_name_and_the_rest_of_the_file_stays(project, named):
    before = Path("params.yaml").read_text().splitlines()
    assert "has file:data/everyday-mail.jsonl no longer; train_only has" in said("remove", "emails", named)
    after = Path("params.yaml").read_text().splitlines()
    source, digest, learned = [line.strip() for line in before if line not in after]
    assert source == "- source: file:data/everyday-mail.jsonl # written for this project: data/README.md"
    assert digest.startswith("sha256: ")
    assert learned == "train_only: [everyday-mail/*]"
    check_params()


@pytest.mark.parametrize("sources", ["[]", ""])
def test_a_dataset_without_sources_gets_its_first_one(project, sources):
    values = Path("params.yaml").read_text()
    begin, end = (
        values.index("    sources:", values.index("  emails:")),
        values.index("    preprocess:", values.index("  emails:")),
    )
    Path("params.yaml").write_text(f"{values[:begin]}    sources: {sources}\n{values[end:]}")
    assert "as emails: 9 rows (6 ham, 3 spam)\n" in said("check", "mails.csv")
    assert "datasets.emails.sources has its first one" in said("add", "emails", "mails.csv")
    assert [each.source for each in load_dataset("emails").sources] == ["mails.csv"]
    check_params()


def test_sources_of_one_file_stand_beside_each_other_and_what_is_renewed_is_said(project):
    with zipfile.ZipFile("texts.zip", "w") as archive:
        for name in ("en/a.txt", "de/a.txt"):
            archive.writestr(name, "Once upon a time there was a miller.")
    before = len(load_dataset("corpus").sources)
    for name in ("en", "de"):
        output = said("add", "corpus", "texts.zip", "--files", f"{name}/*.txt", "--name", name)
        assert "params.yaml: datasets.corpus.sources has one more\n" in output
    added = load_dataset("corpus").sources[before:]
    assert [(each.files, each.name) for each in added] == [("en/*.txt", "en"), ("de/*.txt", "de")]
    output = said("add", "corpus", "texts.zip", "--files", "en/*.txt", "--name", "en")
    assert "params.yaml: datasets.corpus.sources has it, as it is\n" in output
    with zipfile.ZipFile("texts.zip", "a") as archive:
        archive.writestr("en/b.txt", "The miller had three sons.")
    output = said("add", "corpus", "texts.zip", "--files", "en/*.txt", "--name", "en")
    assert f"sources has it, renewed: sha256 was {added[0].sha256}\n" in output
    assert [each.name for each in load_dataset("corpus").sources[before:]] == ["en", "de"]
    assert load_dataset("corpus").sources[-1] == added[1]


def test_labels_that_yaml_would_read_as_truth_values_are_written_in_quotes(project):
    Path("mails.csv").write_text("spam,text\nno,a\nyes,b\n")
    said("add", "emails", "mails.csv", "--label", "no=ham", "--label", "yes=spam")
    assert '"yes": spam' in Path("params.yaml").read_text()
    said("add", "emails", "mails.csv", "--label", "1=spam")
    assert load_dataset("emails").preprocess.label_map == {"no": "ham", "yes": "spam", "1": "spam"}
    assert "as emails: 2 rows (1 ham, 1 spam)\n" in said("check", "mails.csv")


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


def test_add_reads_a_file_of_this_machine_once(project, monkeypatch):
    from tasks.data import sources

    read = []
    monkeypatch.setattr(sources, "digest", lambda found: read.append(found) or digest(found))
    said("add", "emails", "mails.csv")
    assert len(read) == 1
    assert load_dataset("emails").sources[-1].sha256 == hashlib.sha256(Path("mails.csv").read_bytes()).hexdigest()
