"""params.yaml as a file that people write: changed in place, with its comments."""

import io
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import RoundTripRepresenter
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from llm.errors import UserError
from llm.files import read_text, write_atomic
from tasks.data.sources import Source, check_globs, check_names, source_name
from tasks.stages.params import PARAMS_FILE, dataset_names, load_dataset

ORDER = ("source", "sha256", "files", "encoding", "name")
INDENT = 6  # of an item below datasets.<name>.sources


def _yaml() -> YAML:
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 2**16
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.Representer = _Representer
    return yaml


class _Representer(RoundTripRepresenter):
    """Writes `null` as people do, and not as nothing."""

    def represent_none(self, value: None) -> ScalarNode:
        """A value that is none."""
        return self.represent_scalar("tag:yaml.org,2002:null", "null")


_Representer.add_representer(type(None), _Representer.represent_none)


def _ordered(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: entry[key] for key in ORDER if key in entry}


def as_item(entry: Mapping[str, Any]) -> str:
    """A source as the lines that stand in params.yaml."""
    stream = io.StringIO()
    _yaml().dump([_ordered(entry)], stream)
    return "".join(f"{'':{INDENT - 2}}{line}" for line in stream.getvalue().splitlines(keepends=True)).rstrip()


def add_source(dataset: str, entry: Mapping[str, Any], label_map: Mapping[str, str], *, replace: bool = False) -> str:
    """Write a source into a dataset's block, or renew the one with the same `source`, `files` and `name`.

    With `replace` it takes the place of all others, and globs of `train_only` that then fit no source go with them.
    Returns what was done. Nothing else in the file changes. Raises UserError, and writes nothing, where the block would
    be wrong.
    """
    yaml, content, block = _block(dataset)
    sources = block.get("sources") or []
    place = next((number for number, each in enumerate(sources) if _identity(each) == _identity(entry)), None)
    if replace or not sources:
        what = f"has this one instead of {len(sources)}" if sources else "has its first one"
        block["sources"] = [_ordered(entry)]
        what += _without_idle_globs(block)
    elif place is None:
        what = "has one more"
        sources.append(_ordered(entry))
    else:
        what = f"has it, {_renewed(sources[place], entry)}"
        if isinstance(sources[place], Mapping):
            sources[place].update(_ordered(entry))
        else:
            sources[place] = _ordered(entry)
    if label_map:
        meanings = {str(key): label for key, label in (block["preprocess"].get("label_map") or {}).items()}
        # Without quotes the stages would read yes as true.
        quoted = {DoubleQuotedScalarString(key): label for key, label in (meanings | dict(label_map)).items()}
        block["preprocess"]["label_map"] = quoted
    _write(dataset, yaml, content)
    return what


def remove_source(dataset: str, said: str) -> str:
    """Take a source out of a dataset's block, by its `source` or its folder in data/raw, and globs that then fit none.

    Returns what was done. Raises UserError, and writes nothing, where that is none or several, or the last one.
    """
    yaml, content, block = _block(dataset)
    names = [(each.source, source_name(each)) for each in load_dataset(dataset).sources]
    found = [place for place, each in enumerate(names) if said in (*each, each[0].removeprefix("file:"))]
    if len(found) != 1:
        known = ", ".join(f"{source} ({name})" for source, name in names)
        raise UserError(f"{dataset} has {len(found) or 'no'} sources {said!r}; name one of {known}")
    if len(names) == 1:
        raise UserError(f"{said} is the only source of {dataset}; put another there with `data add --replace`")
    del block["sources"][found[0]]
    what = f"has {names[found[0]][0]} no longer{_without_idle_globs(block)}"
    _write(dataset, yaml, content)
    return what


def _block(dataset: str) -> tuple[YAML, Any, Any]:
    """The file's writer, what it holds, and the dataset's block in it. Raises UserError where there is none."""
    if dataset not in dataset_names():
        raise UserError(f"there is no dataset {dataset!r}; those are {', '.join(dataset_names())}")
    yaml = _yaml()
    content = yaml.load(read_text(PARAMS_FILE))
    return yaml, content, content["datasets"][dataset]


def _without_idle_globs(block: Any) -> str:
    """Drop the globs of `train_only` that fit none of the sources; says which."""
    sources, idle = [Source.model_validate(each) for each in block["sources"]], []
    globs = (block.get("preprocess") or {}).get("train_only") or []
    for glob in [*globs]:
        try:
            check_globs(sources, [glob])
        except UserError:
            globs.remove(glob)
            idle.append(glob)
    return f"; train_only has {', '.join(idle)} no longer, which fits no source" if idle else ""


def _write(dataset: str, yaml: YAML, content: Any) -> None:
    stream = io.StringIO()
    yaml.dump(content, stream)
    _check(dataset, stream.getvalue())
    write_atomic(PARAMS_FILE, stream.getvalue())


def _entry(source: Any) -> Mapping[str, Any]:
    return {"source": source} if isinstance(source, str) else source


def _identity(source: Any) -> tuple[str, str, str | None]:
    """What tells a source from others, whatever it is pinned to: one of the hub carries its commit in its name."""
    entry = _entry(source)
    place = entry["source"].partition("@")[0] if entry["source"].startswith("hf:") else entry["source"]
    return place, entry.get("files", "*"), entry.get("name")


def _renewed(before: Any, entry: Mapping[str, Any]) -> str:
    """What an entry changes in one that is there."""
    old = _entry(before)
    changed = [f"{key} was {old.get(key)}" for key in _ordered(entry) if old.get(key) != entry[key]]
    return f"renewed: {', '.join(changed)}" if changed else "as it is"


def _check(dataset: str, text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        changed = Path(folder) / PARAMS_FILE.name
        changed.write_text(text, encoding="utf-8")
        try:
            block = load_dataset(dataset, changed)
            check_names(block.sources)
            check_globs(block.sources, block.preprocess.train_only)
        except UserError as error:
            raise UserError(str(error).replace(f"{changed}", str(PARAMS_FILE))) from None
