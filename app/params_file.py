"""params.yaml as a file that people write: changed in place, with its comments."""

import io
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import RoundTripRepresenter

from llm.errors import UserError
from llm.files import read_text, write_atomic
from tasks.data.sources import Source, check_names
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


def add_source(dataset: str, entry: Mapping[str, Any], label_map: Mapping[str, str], path: Path = PARAMS_FILE) -> str:
    """Write a source into a dataset's block, or renew the one that is there, and say which it was.

    Nothing else in the file changes. Raises UserError, and writes nothing, where the block would be wrong.
    """
    if dataset not in dataset_names(path):
        raise UserError(f"there is no dataset {dataset!r}; those are {', '.join(dataset_names(path))}")
    yaml = _yaml()
    content = yaml.load(read_text(path))
    block = content["datasets"][dataset]
    sources = block["sources"]
    there = [number for number, each in enumerate(sources) if _name(each) == _name(entry)]
    if there and isinstance(sources[there[0]], Mapping):
        sources[there[0]].update(_ordered(entry))
    elif there:
        sources[there[0]] = _ordered(entry)
    else:
        sources.append(_ordered(entry))
    if label_map:
        block["preprocess"]["label_map"] = {**(block["preprocess"].get("label_map") or {}), **label_map}
    stream = io.StringIO()
    yaml.dump(content, stream)
    _check(dataset, stream.getvalue())
    write_atomic(path, stream.getvalue())
    return "has it, renewed" if there else "has one more"


def _name(source: Any) -> str:
    """What a source is called, whatever it is pinned to: a dataset of the hub carries its commit in its name."""
    name = source if isinstance(source, str) else source["source"]
    return name.partition("@")[0] if name.startswith("hf:") else name


def _check(dataset: str, text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        changed = Path(folder) / PARAMS_FILE.name
        changed.write_text(text, encoding="utf-8")
        try:
            check_names([Source.model_validate(each) for each in load_dataset(dataset, changed).sources])
        except UserError as error:
            raise UserError(str(error).replace(f"{changed}", str(PARAMS_FILE))) from None
