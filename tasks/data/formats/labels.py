"""Labels of texts, as a block of params.yaml names them: which there are, and what files write instead."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePath
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from tasks.data.problems import RowError
from tasks.data.splits import Split

TOPICS = {"corpus", "data", "dataset", "datasets"}  # a folder's name with such a word is a topic, not a label


def _as_texts(value: Any) -> Any:
    """YAML reads 1 as a number, but a file's cell is text.

    A word that YAML reads as true, such as yes, can't be restored.
    """
    if not isinstance(value, dict):
        return value
    if any(isinstance(key, bool) for key in value):
        raise ValueError('YAML reads yes, no, on, off, true and false as truth values; put such keys in quotes: "yes"')
    return {str(key): label for key, label in value.items()}


class LabelledSplit(Split):
    """Parameters for labelling, cleaning and splitting texts."""

    labels: tuple[str, ...] = Field(("ham", "spam"), min_length=2)
    """The labels: words of letters, digits, `_`, `.` and `-`. Every split has each of them."""
    label_map: Annotated[dict[str, str], BeforeValidator(_as_texts)] = Field(default_factory=dict)
    """What files write instead of a label, such as `{0: ham, 1: spam}`."""

    @field_validator("labels", mode="after")
    @classmethod
    def _each_label_is_a_name_and_once(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        for label in labels:  # they become names of metrics
            if not re.fullmatch(r"[\w.-]+( [\w.-]+)*", label):
                raise ValueError(f"{label!r} is no word of letters, digits, _, . and -, nor several of them")
        if repeated := [label for label in labels if labels.count(label) > 1]:
            raise ValueError(f"{repeated[0]!r} stands here twice")
        return labels

    @model_validator(mode="after")
    def _the_map_leads_to_labels(self) -> Self:
        if strangers := [label for label in self.label_map.values() if label not in self.labels]:
            raise ValueError(f"label_map: {strangers[0]!r} is not one of the labels {', '.join(self.labels)}")
        return self


@dataclass(frozen=True)
class Labels:
    """The labels of texts, and the names that files use for them."""

    names: tuple[str, ...]
    label_map: Mapping[str, str] = field(default_factory=dict)
    """What files write instead, such as 1 for spam; case does not count."""

    @cached_property
    def _by_word(self) -> dict[str, str]:
        """The label of each word in lower case."""
        words = {name: name for name in self.names} | dict(self.label_map)
        return {word.casefold(): name for word, name in words.items()}

    def of(self, value: Any) -> str:
        """The label that a file's value means. Raises RowError if it means none."""
        text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
        label = text if text in self.names else self._by_word.get(text.strip().casefold())
        if label is None:
            raise RowError(f"label {text!r} is not one of {', '.join(self.names)}")
        return label

    def of_path(self, path: PurePath) -> str | None:
        """The label that is a word of the file's name, else of the nearest folder's: `easy-ham-1/3.eml` is ham.

        None if there is no such name, or if the nearest with a label denies it, as `not-spam` does.
        """
        return self._first([path.name, *_folders(path)])

    def of_message(self, path: PurePath) -> str | None:
        """Like `of_path`, for a file with one message: programs name it by its subject, so its folders count first."""
        return self._first([*_folders(path), path.name])

    def _first(self, names: Sequence[str]) -> str | None:
        for name in map(_words, names):
            words = [word for word in self._by_word if not word.isdigit()]  # numbers name files, too
            if any(re.search(rf"\b(no|non|not) ?{re.escape(_words(word))}\b", name) for word in words):
                return None
            labels = {self._by_word[word] for word in words if f" {_words(word)} " in f" {name} "}
            if len(labels) == 1:
                return labels.pop()
        return None


def _folders(path: PurePath) -> list[str]:
    """The folders of a file, the nearest first, without the outermost if that is named after its topic.

    The outermost is the source's own: mails in `spam-data/legit/` are not spam because of it.
    """
    folders = list(reversed(path.parts[:-1]))
    if folders and TOPICS.intersection(_words(folders[-1]).split()):
        return folders[:-1]
    return folders


def _words(text: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", text.casefold()))
