"""Labelled texts: which labels there are, what files write instead, and the rows and messages of all files."""

import csv
import logging
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import chain
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import Field, model_validator

from llm.errors import UserError
from tasks.data.files import (
    TABLES,
    Row,
    RowError,
    add_mistakes,
    columns_of,
    first_line,
    form_of,
    raw_files,
    read_messages,
    read_rows,
    read_text,
    separator_of,
)
from tasks.data.findings import Findings
from tasks.data.splits import Split
from tasks.stages.progress_bar import ProgressBar

if TYPE_CHECKING:
    from great_expectations.expectations import Expectation

LABEL_COLUMNS = (
    "label",
    "labels",
    "class",
    "category",
    "target",
    "spam/ham",
    "is_spam",
    "spam",
    "label_num",
    "type",
    "v1",
)
GROUP = "group"  # the column of the package with SpamAssassin's mails: easy-ham-1, spam-2
COMMON_WORDS = {
    **dict.fromkeys(("inbox", "sent", "archive", "legitimate", "legit"), "ham"),
    **dict.fromkeys(("junk", "bulk", "phishing", "unsolicited"), "spam"),
}
TRUTH = {"1": True, "true": True, "0": False, "false": False}
TOPICS = {"archive", "corpus", "data", "dataset", "datasets"}  # such a name of a source is a topic, not a label
NAMED = 5  # values that a message names
NO_LABEL = "no label: say which of the columns {names} it is by --column label=NAME, or --label-of '{file}={label}'"

logger = logging.getLogger(__name__)


Word = Annotated[str, Field(pattern=r"^[\w.-]+( [\w.-]+)*$")]  # labels become names of metrics
Value = Annotated[str, Field(coerce_numbers_to_str=True)]  # YAML reads 1 as a number, but a file's cell is text


class LabelledSplit(Split):
    """Parameters for labelling, cleaning and splitting texts."""

    labels: tuple[Word, ...] = Field(("ham", "spam"), min_length=2)
    """The labels: words of letters, digits, `_`, `.` and `-`. Every split has each of them."""
    label_map: dict[Value, str] = Field(default_factory=dict)
    """What files write instead of a label, such as `{0: ham, 1: spam}`; put yes, no, true and false in quotes."""
    label_of: dict[str, str] = Field(default_factory=dict)
    """The labels of files by globs of their paths, such as `{Inbox*: ham, Junk*: spam}`."""
    columns: dict[str, str] = Field(default_factory=dict)
    """The names of a table's columns, such as `label` and the texts, if they are not usual ones."""

    @model_validator(mode="after")
    def _labels_are_known_and_stand_once(self) -> Self:
        if len(set(self.labels)) < len(self.labels):
            raise ValueError(f"labels: one of {', '.join(self.labels)} stands here twice")
        if strangers := {*self.label_map.values(), *self.label_of.values()} - {*self.labels}:
            raise ValueError(f"{min(strangers)!r} is not one of the labels {', '.join(self.labels)}")
        return self


class UnknownLabelError(RowError):
    """A value that means none of the labels."""


class Labels:
    """The labels of texts, and the words that files use for them; case does not count."""

    def __init__(self, params: LabelledSplit) -> None:
        self.names = params.labels
        self.columns = params.columns
        self.label_of = params.label_of
        values = {name: name for name in self.names} | params.label_map
        self.by_value = {value.casefold(): label for value, label in values.items()}
        """The label of each value that a cell may have."""
        words = {_words(value): label for value, label in values.items() if not value.isdigit()}  # numbers name files
        self.own_words = self._denials(words) | words
        """The label of each word that a path may have; None for a word that denies a label and leaves several."""
        common_words = {word: label for word, label in COMMON_WORDS.items() if label in self.names}
        self.all_words = self._denials(common_words) | common_words | self.own_words
        """The same with the usual words for ham and spam."""

    def _denials(self, words: Mapping[str, str]) -> dict[str, str | None]:
        """`not spam` is ham where there is no third label."""
        denials: dict[str, str | None] = {}
        for word, label in words.items():
            for denial in (f"no {word}", f"non {word}", f"non{word}", f"not {word}"):
                denials[denial] = self._opposite(label)
        return denials

    def _opposite(self, label: str) -> str | None:
        return next(name for name in self.names if name != label) if len(self.names) == 2 else None

    def of_value(self, value: Any, column: str = "") -> str:
        """The label that the value of a column means. Raises UnknownLabelError if it means none."""
        text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
        folded = text.strip().casefold()
        label = self.by_value.get(folded) or self.all_words.get(_words(text))
        subject = self._subject_of(column)
        if label is None and subject and folded in TRUTH:
            label = subject if TRUTH[folded] else self._opposite(subject)
        if label is None and column.casefold() == GROUP:
            label = self.of_path(PurePath(text))
        if label is None:
            raise UnknownLabelError(text)
        return label

    def _subject_of(self, column: str) -> str | None:
        """The label after which a column is named, as `is_spam` and `spam_flag` are."""
        words = [word for word in _words(column).split() if word not in ("is", "flag")]
        return self.by_value.get(" ".join(words))

    def column_of(self, names: Sequence[str]) -> str | None:
        """The column that is named after a label."""
        return next((name for name in names if self._subject_of(name)), None)

    def of_path(self, path: PurePath, *, is_message: bool = False) -> str | None:
        """The label of a file: by `label_of`, else by the nearest name with a word for it: `easy-ham-1/3.eml` is ham.

        Programs name a message by its subject: its folders count first. None if no name has such a word, if the nearest
        has words for several labels, and if a label itself contradicts a nearer word: `spam/archive`.
        """
        name = f"/{path.as_posix()}".casefold()
        for glob, label in self.label_of.items():
            if fnmatchcase(name, f"*/{glob.casefold()}"):
                return label
        folders = _folders(path)
        own = _nearest([*folders, path.name] if is_message else [path.name, *folders], self.own_words)
        usual = _nearest(folders if is_message else [path.name, *folders], self.all_words)
        return own or usual if own == usual or None in (own, usual) else None


def _nearest(names: Sequence[str], labels: Mapping[str, str | None]) -> str | None:
    """The label of the words in the first name that has any; None if they are of several labels."""
    longest_first = sorted(labels, key=len, reverse=True)  # `not spam` before `spam`
    words = re.compile(rf"\b(?:{'|'.join(map(re.escape, longest_first))})\b")
    for name in names:
        if matches := words.findall(_words(name)):
            meanings = {labels[word] for word in matches}
            return meanings.pop() if len(meanings) == 1 else None
    return None


def _folders(path: PurePath) -> list[str]:
    """The folders of a file, the nearest first, without the outermost if that is named after its topic.

    The outermost is the source's own: mails in `spam-data/2024/` are not spam because of it.
    """
    folders = list(reversed(path.parts[:-1]))
    if folders and TOPICS.intersection(_words(folders[-1]).split()):
        return folders[:-1]
    return folders


def _words(text: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", text.casefold()))


@dataclass(frozen=True)
class LabelledRow:
    """A row of a labelled dataset before its texts are cleaned."""

    id: str
    source: str
    label: str
    content: bytes | str | dict[str, str]
    """A raw message, a text, or texts by our columns."""


def read_labelled(
    folder: Path, params: LabelledSplit, findings: Findings, *, texts: Mapping[str, Sequence[str]], mails: bool = False
) -> Iterator[LabelledRow]:
    """The rows of all files below a folder, in the order of their paths.

    `texts` are our columns of texts with their usual names. Tables have a label in each row; with `mails`, messages and
    texts are read, too, and their paths say the label. What stays unclear is one problem a file or folder.
    """
    labels = Labels(params)
    paths = raw_files(folder)
    unlabelled: dict[Path, list[Path]] = {}
    for path in ProgressBar(paths, desc="reading", unit="file"):
        name = path.relative_to(folder)
        try:
            form = form_of(path)
            header = _header_of_headless(path, form, labels=labels, texts=texts)
            if header or form in (*TABLES, "empty"):
                rows = read_rows(path, findings, header)
                yield from _labelled_rows(rows, path=path, name=name, labels=labels, findings=findings, texts=texts)
            elif not mails or form not in ("eml", "mbox", "text"):
                forms = ", ".join((*TABLES, "eml", "mbox", "text") if mails else TABLES)
                raise UserError(f"{path}: {form} is not read here; what is read is {forms}")
            elif label := labels.of_path(name, is_message=form != "mbox"):
                yield from _mails(path, form, name=name, label=label)
            else:
                mailbox = path.parent.parent if path.parent.name in ("cur", "new") else path.parent
                unlabelled.setdefault(path if form == "mbox" else mailbox, []).append(path)
        except UserError as error:
            findings.add_error(error)
    for mailbox, files in unlabelled.items():
        glob = mailbox.name if mailbox in files else f"{mailbox.name}/*"
        reason = f"no name says which of {', '.join(labels.names)} it is: {len(files)} files, such as {files[0].name}"
        findings.add_problem(mailbox, f"{reason}; say it by --label-of '{glob}={labels.names[0]}'")
    logger.info("%d files", len(paths))


def _mails(path: Path, form: str, *, name: PurePath, label: str) -> Iterator[LabelledRow]:
    """The messages of a file, or the one text that it is."""
    if form == "mbox":
        for number, content in enumerate(read_messages(path), 1):
            yield LabelledRow(id=f"{name.as_posix()}#{number}", source=name.as_posix(), label=label, content=content)
        return
    content = read_text(path) if form == "text" else next(read_messages(path))
    yield LabelledRow(id=name.as_posix(), source=name.parent.as_posix(), label=label, content=content)


def _header_of_headless(
    path: Path, form: str, *, labels: Labels, texts: Mapping[str, Sequence[str]]
) -> tuple[str, ...]:
    """The columns of a table without a header: its first row is a label and a text, as in the SMS Spam Collection."""
    if form not in ("csv", "text"):
        return ()
    line = first_line(path)
    separator = "\t" if form == "text" else separator_of(path)
    (cells,) = list(csv.reader([line], delimiter=separator)) or [()]
    names = {name for usual in texts.values() for name in usual}
    if len(cells) != 2 or cells[0].strip().casefold() not in labels.by_value or cells[1].strip().casefold() in names:
        return ()
    return "label", list(texts)[-1]


def _labelled_rows(
    rows: Iterator[Row],
    *,
    path: Path,
    name: PurePath,
    labels: Labels,
    findings: Findings,
    texts: Mapping[str, Sequence[str]],
) -> Iterator[LabelledRow]:
    """The rows of a table with their labels. Problems name the first row that has them."""
    path_label = labels.of_path(name)
    mistakes: dict[str, list[int | None]] = {}
    unknown: dict[str, list[int | None]] = {}
    for number, cells in rows:
        try:
            columns = _columns(cells, labels, texts)
            label = labels.of_value(cells[columns["label"]], columns["label"]) if "label" in columns else path_label
            content = {ours: _text_under(cells, columns[ours]) for ours in texts if ours in columns}
            if label is None:
                raise RowError(NO_LABEL.format(names=", ".join(cells), file=path.name, label=labels.names[0]))
        except UnknownLabelError as error:
            unknown.setdefault(str(error), []).append(number)
        except RowError as error:
            mistakes.setdefault(str(error), []).append(number)
        else:
            row_id = f"{name.as_posix()}#{number}" if number else name.as_posix()
            source = name if number else name.parent
            yield LabelledRow(id=row_id, source=source.as_posix(), label=label, content=content)
    if unknown:
        values = ", ".join(map(repr, list(unknown)[:NAMED])) + (", …" if len(unknown) > NAMED else "")
        options = " ".join(f"--label {shlex.quote(value)}=…" for value in list(unknown)[:NAMED])
        reason = f"label {values} is not one of {', '.join(labels.names)}; say what it means by {options}"
        mistakes[reason] = list(chain.from_iterable(unknown.values()))
    add_mistakes(findings, path, mistakes)


def _columns(cells: Any, labels: Labels, texts: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The columns of a row by ours. Raises RowError if it is no row, or has not all texts."""
    if not isinstance(cells, Mapping):
        raise RowError(f"{str(cells)[:50]!r} is no row with columns")
    columns = columns_of(cells, {"label": LABEL_COLUMNS, **texts}, labels.columns)
    subject = labels.column_of(list(cells))
    if "label" not in columns and subject:
        columns["label"] = subject
    elif "label" not in columns and GROUP in cells:
        columns["label"] = GROUP
    needed = list(texts)[-1]
    if needed not in columns:
        names = ", ".join(cells)
        raise RowError(f"no text under {needed!r}; columns are {names}; say which it is by --column {needed}=NAME")
    return columns


def _text_under(cells: Mapping[str, Any], column: str) -> str:
    text = cells[column]
    if text is None:
        return ""  # as a cell of CSV that is empty
    if not isinstance(text, str):
        raise RowError(f"{str(text)[:50]!r} under {column!r} is no text")
    return text


def labelled_expectations(
    columns: Sequence[str], texts: Mapping[str, tuple[int, int]], labels: Sequence[str]
) -> list["Expectation"]:
    """The expectations on labelled rows: values in all columns, own ids, lengths of texts, known labels."""
    import great_expectations.expectations as gxe

    return [
        *(gxe.ExpectColumnValuesToNotBeNull(column=column) for column in columns),
        *(
            gxe.ExpectColumnValueLengthsToBeBetween(column=column, min_value=least, max_value=most)
            for column, (least, most) in texts.items()
        ),
        gxe.ExpectColumnValuesToBeUnique(column="id"),
        gxe.ExpectColumnValuesToBeInSet(column="label", value_set=list(labels)),
    ]
