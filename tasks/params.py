"""params.yaml: one model of all its blocks, which are read, checked, and changed by `threestage run --set`.

A dataset brings the class of its section `preprocess`, and an application those of `train` and `evaluate`. Their
modules import torch and pandas, which takes seconds. `check_params` imports none of them: it holds these sections
against params.schema.json, which the classes generate. A stage loads the classes of its own block alone.
"""

import io
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model, field_validator
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError

from llm.config import Config, Replay
from llm.errors import UserError
from llm.files import write_atomic
from tasks.data.published import check_published
from tasks.data.sources import Source, check_globs
from tasks.find import find_dataset, find_evaluation, find_training
from tasks.stages.names import (
    FOUNDATION,
    GATES_ON_METRICS,
    NOTHING_TO_REHEARSE,
    PARAMS_FILE,
    PUBLISHED,
    REPLAY,
    inner,
    model_key,
    replay_file,
)
from tasks.stages.yaml_text import parse_yaml, read_text, read_yaml

SCHEMA_FILE = Path("params.schema.json")
SECTIONS_OF_CLASSES = {"preprocess", "train", "evaluate", "objective"}
"""Keys of a block whose classes are in the modules of datasets and applications."""
LEARNED = {"language_model": "tokenizer", "classifier": "labels"}
"""The key under `preprocess` that only datasets have from which an objective can learn."""
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")

Values = Mapping[str, Any]
Model = TypeVar("Model", bound=BaseModel)


class Gates(Config):
    """The gates that a challenger must pass.

    Gates on answers and on the commit are always checked, too. Data that failed its checks never reaches a model.
    """

    at_least: dict[str, float] = Field(default_factory=dict)
    """Least values of metrics, by name."""
    at_most: dict[str, float] = Field(default_factory=dict)
    """Greatest values of metrics, by name."""
    no_loss: tuple[str, ...] = ()
    """Metrics in which the challenger must not be significantly worse than the champion, nor than the baseline: it is
    if the whole 95 % interval of the difference, paired by test row, is on the worse side."""
    ahead: tuple[str, ...] = ()
    """Metrics in which it must be significantly better than the baseline."""
    drift: Annotated[float, Field(gt=0)] | None = 0.25
    """The largest distance of the training data from the champion's in any property, as a population stability index:
    above 0.25 is conventionally large. Null turns this gate off."""


class DatasetBlock(Config):
    """A dataset."""

    sources: list[Source] = Field(min_length=1)
    """The files that it is made from."""
    preprocess: Any
    """How they become rows: the class of tasks/data/<name>.py."""


class ModelBlock(Config):
    """The foundation."""

    dataset: str
    """The dataset that it learns."""
    objective: str
    """The objective in its train.py, for DVC."""
    train: Any
    """How it is trained: the class of its train.py, or plain values."""
    evaluate: Any
    """How it is measured: the class of its measure.py, or plain values."""
    review: Gates = Gates()
    """When a version may become champion; no stage reads it."""


class ApplicationBlock(ModelBlock):
    """A model that starts from another one."""

    base: str
    """The model that it starts from."""
    rehearses: Path
    """The base's own answers that it also learns."""


class Params(Config):
    """All of params.yaml."""

    published: str | None = None
    """Weights that a fine-tune with `base: published` starts from."""
    replay: dict[str, Replay]
    """Answers of a base that its fine-tunes rehearse."""
    datasets: dict[str, DatasetBlock]
    """Each with a file tasks/data/<name>.py."""
    foundation: ModelBlock
    """The model that learns text."""
    applications: dict[str, ApplicationBlock]
    """Each with a folder tasks/applications/<name>/."""

    @field_validator("published")
    @classmethod
    def _is_known(cls, name: str | None) -> str | None:
        if name is not None:
            check_published(name)
        return name


def preprocess_class(name: str) -> type[BaseModel]:
    """The class of a dataset's `preprocess` section. Raises UserError for a dataset without a file."""
    return find_dataset(name).Params


def load_dataset(name: str, path: Path = PARAMS_FILE) -> DatasetBlock:
    """The block of a dataset, with the class of its `preprocess`. Raises UserError, a line for each mistake."""
    return _load(_dataset_class(name), f"datasets.{name}", path)


def load_sources(name: str, path: Path = PARAMS_FILE) -> list[Source]:
    """The sources of a dataset. Raises UserError, a line for each mistake."""
    return _load(DatasetBlock, f"datasets.{name}", path).sources


def load_block(model: str, path: Path = PARAMS_FILE) -> ModelBlock:
    """The block of a model, with plain values under `train` and `evaluate`. Raises UserError as `load_dataset`."""
    return _load(_block_class(model), model_key(model), path)


def load_training(model: str, path: Path = PARAMS_FILE) -> ModelBlock:
    """The block of a model, with the class of its `train`. Raises UserError as `load_dataset`."""
    return _load(_block_class(model, **_training_fields(model)), model_key(model), path)


def load_evaluation(model: str, path: Path = PARAMS_FILE) -> ModelBlock:
    """The block of a model, with the class of its `evaluate`. Raises UserError as `load_dataset`."""
    return _load(_block_class(model, **_evaluation_fields(model)), model_key(model), path)


def load_replay(name: str, path: Path = PARAMS_FILE) -> Replay:
    """The block of a replay. Raises UserError, a line for each mistake."""
    return _load(Replay, f"{REPLAY}.{name}", path)


def load_published_name(path: Path = PARAMS_FILE) -> str:
    """The published weights that fine-tunes start from. Raises UserError if there are none."""
    name = read_yaml(path).get(PUBLISHED)
    if not name:
        raise UserError(f"{path}: {PUBLISHED}: missing; name published weights")
    return str(name)


def _load(block_class: type[Model], key: str, path: Path) -> Model:
    block = inner(read_yaml(path), *key.split("."))
    return validated(block_class, {} if block is None else block, key=key, file=path)


def _dataset_class(name: str) -> type[DatasetBlock]:
    return create_model(f"{name}_dataset", __base__=DatasetBlock, preprocess=(preprocess_class(name), ...))


def _block_class(model: str, **fields: Any) -> type[ModelBlock]:
    """The class of a model's block, with classes of sections as fields."""
    return create_model(f"{model}_model", __base__=ModelBlock if model == FOUNDATION else ApplicationBlock, **fields)


def _training_fields(model: str) -> dict[str, Any]:
    training = find_training(model)
    objective = Annotated[str, Field(pattern=f"^{training.objective}$")]
    return {"train": (training.train, ...), "objective": (objective, ...)}


def _evaluation_fields(model: str) -> dict[str, Any]:
    return {"evaluate": (find_evaluation(model).params, ...)}


def params_class(values: Values) -> type[Params]:
    """`Params` with the classes of all sections of `values`, which takes seconds.

    Raises UserError for a dataset or an application without a file.
    """
    datasets: dict[str, Any] = {name: (_dataset_class(name), ...) for name in values["datasets"]}
    models: dict[str, Any] = {}
    for name in (FOUNDATION, *values["applications"]):
        models[name] = (_block_class(name, **_training_fields(name), **_evaluation_fields(name)), ...)
    foundation = models.pop(FOUNDATION)
    is_open = ConfigDict(extra="allow")  # a new block is no mistake: the schema does not know it yet
    dataset_blocks: Any = (create_model("datasets", __config__=is_open, **datasets), ...)
    applications: Any = (create_model("applications", __config__=is_open, **models), ...)
    blocks = {"datasets": dataset_blocks, FOUNDATION: foundation, "applications": applications}
    return create_model("params.yaml", __base__=Params, **blocks)


def schema_text(values: Values) -> str:
    """The content of params.schema.json for the blocks of `values`: editors complete, explain and check keys by it."""
    schema = {"$schema": Draft202012Validator.META_SCHEMA["$id"], "$comment": "Written by make schema"}
    return json.dumps(schema | params_class(values).model_json_schema(), indent=1) + "\n"


def check_params(path: Path = PARAMS_FILE) -> None:
    """Check params.yaml within a third of a second. Raises UserError with a line for each mistake.

    Runs and stages begin with it, so that no mistake is found in the middle of a run.
    """
    check_values(read_yaml(path), path)


def check_values(values: Values, path: Path = PARAMS_FILE) -> None:
    """Check what params.yaml holds, or would hold: each block, and what blocks say about each other."""
    _raise(path, [*_mistakes(Params, values), *_schema_mistakes(values), *_cross_mistakes(values)])


def check_classes(values: Values, path: Path = PARAMS_FILE) -> None:
    """The same, and all classes, which takes seconds: they know which values of a section go together."""
    check_values(values, path)
    _raise(path, _mistakes(params_class(values), values))


def validated(model: type[Model], values: Any, *, key: str, file: Path) -> Model:
    """The values under `key` as a model. Raises UserError with a line for each mistake: file, key, reason, value."""
    _raise(file, _mistakes(model, values, key))
    return model.model_validate(values)


def _raise(file: Path, mistakes: Iterable[str]) -> None:
    lines = [f"{file}: {mistake}" for mistake in dict.fromkeys(mistakes)]
    if lines:
        raise UserError("\n".join(lines))


def _mistakes(model: type[BaseModel], values: Any, *keys: str) -> list[str]:
    """What the model says about the values under `keys`, each as `key: reason`."""
    try:
        model.model_validate(values)
    except ValidationError as error:
        mistakes: list[str] = []
        for detail in error.errors():
            reason = detail["msg"].removeprefix("Value error, ")
            if detail["type"] != "extra_forbidden" and not isinstance(detail["input"], dict):
                reason += f", not {detail['input']!r}"
            mistakes.append(f"{'.'.join(map(str, [*keys, *detail['loc']]))}: {reason}")
        return mistakes
    return []


def _schema_mistakes(values: Values) -> Iterator[str]:
    """What params.schema.json says about the sections that have classes of their own; nothing without the file."""
    if not SCHEMA_FILE.exists():
        return
    validator = Draft202012Validator(json.loads(SCHEMA_FILE.read_text(encoding="utf-8")))
    for error in validator.iter_errors(values):
        mistake = best_match([error])
        assert mistake is not None, "one of one error"
        reads_as_number = isinstance(mistake.instance, str) and NUMBER.fullmatch(mistake.instance)  # as 1e-3 does
        if SECTIONS_OF_CLASSES & {*mistake.absolute_path} and not reads_as_number:
            yield f"{'.'.join(map(str, mistake.absolute_path))}: {mistake.message}; see {SCHEMA_FILE}"


def model_blocks(values: Values) -> dict[str, Values]:
    """The blocks of the foundation and the applications, by model; without those that are no mapping."""
    return _mappings({FOUNDATION: values.get(FOUNDATION)}) | _mappings(values.get("applications"))


def _mappings(section: Any) -> dict[str, Values]:
    """The blocks of a section, by name; without those that are no mapping."""
    if not isinstance(section, Mapping):
        return {}
    return {name: block for name, block in section.items() if isinstance(block, Mapping)}


def _cross_mistakes(values: Values) -> Iterator[str]:
    """What blocks say about each other and about files, each as `key: reason and way out`.

    It reads plain values, because any of them may be wrong; `Params` says which. DVC finds a circle of bases.
    """
    datasets = _mappings(values.get("datasets"))
    models = model_blocks(values)
    replays = _mappings(values.get(REPLAY))
    for name, block in datasets.items():
        globs = inner(block, "preprocess", "train_only")
        yield from _glob_mistakes(f"datasets.{name}.preprocess.train_only", globs, block)
    bases = [*models, PUBLISHED] if values.get(PUBLISHED) else [*models]
    answers = [str(NOTHING_TO_REHEARSE), *(str(replay_file(name)) for name in replays)]
    for name, block in replays.items():
        key = f"{REPLAY}.{name}"
        yield from _choice_mistakes(f"{key}.base", block.get("base"), bases)
        yield from _file_mistakes(f"{key}.prompts", block.get("prompts"), [])
    for name, block in models.items():
        key = model_key(name)
        yield from _choice_mistakes(f"{key}.dataset", block.get("dataset"), datasets)
        yield from _choice_mistakes(f"{key}.base", block.get("base"), bases)
        yield from _file_mistakes(f"{key}.rehearses", block.get("rehearses"), answers)
        yield from _dataset_mistakes(key, block, datasets.get(str(block.get("dataset")), {}))
        yield from _gate_mistakes(name, f"{key}.review", block.get("review"))


def _choice_mistakes(key: str, name: Any, names: Collection[str]) -> Iterator[str]:
    """A name of no block."""
    if isinstance(name, str) and name not in names:
        yield f"{key}: {name!r} is not one of {', '.join(names)}"


def _file_mistakes(key: str, file: Any, outs: Sequence[str]) -> Iterator[str]:
    """A file that is not there, and that no stage makes."""
    if isinstance(file, str) and file not in outs and not Path(file).exists():
        yield f"{key}: there is no {file}; name a file{' or an out of a replay: ' if outs else ''}{', '.join(outs)}"


def _dataset_mistakes(key: str, block: Values, dataset: Values) -> Iterator[str]:
    """A dataset from which the objective can't learn, or that lacks the sources that are learned twice."""
    needed = LEARNED.get(str(block.get("objective")))
    preprocess = inner(dataset, "preprocess")
    if needed and isinstance(preprocess, Mapping) and needed not in preprocess:
        name = block["dataset"]
        reason = f"{name} has no {needed!r} under preprocess, from which this model learns"
        yield f"{key}.dataset: {reason}; the Params of tasks/data/{name}.py must have it, too"
    yield from _glob_mistakes(f"{key}.train.twice", inner(block, "train", "twice"), dataset)


def _glob_mistakes(key: str, globs: Any, dataset: Values) -> Iterator[str]:
    """Globs that fit no source of a dataset."""
    try:
        block = DatasetBlock.model_validate({**dataset, "preprocess": None})
        check_globs(block.sources, TypeAdapter(list[str]).validate_python(globs or []))
    except ValidationError:  # `Params` and the schema name it
        return
    except UserError as error:
        yield f"{key}: {error}"


def _gate_mistakes(model: str, key: str, gates: Any) -> Iterator[str]:
    """Gates on metrics that the last evaluation did not write and the model's card does not list."""
    report = Path("reports/evaluation", model, "metrics.json")
    if not isinstance(gates, Mapping) or not report.exists():
        return
    metrics = json.loads(report.read_text(encoding="utf-8"))
    card = Path("tasks/applications", model, "card.md")
    card_text = card.read_text(encoding="utf-8") if card.exists() else ""
    for gate in GATES_ON_METRICS:
        for metric in gates.get(gate) or ():
            if metric not in metrics and f"`{metric}`" not in card_text:
                yield f"{key}.{gate}: no evaluation writes {metric!r}; delete it, or list a new metric in {card}"


def set_params(settings: Sequence[str], path: Path = PARAMS_FILE) -> None:
    """Write values such as `foundation.train.steps=100` into params.yaml, all or none.

    Comments, order and quotes stay; a key that is missing comes last in its mapping. Raises UserError for a setting
    without a key or a value, and for values with which a run could not begin.
    """
    text = read_text(path)
    parse_yaml(text, path)
    round_trip = YAML()
    round_trip.preserve_quotes = True
    round_trip.width = 2**16
    round_trip.indent(mapping=2, sequence=4, offset=2)
    round_trip.representer.add_representer(type(None), _write_null)
    document = round_trip.load(text)
    for setting in settings:
        key, mark, value = setting.partition("=")
        if not (mark and key.strip() and value.strip()):
            raise UserError(f"{setting!r}: write KEY=VALUE, such as foundation.train.steps=100")
        try:
            parsed = YAML(typ="safe").load(value)  # YAML 1.2: 1e-3 is a number
            plain = yaml.safe_dump(parsed, default_flow_style=True)  # 0.001, a number to every reader
            _set(document, key.strip().split("."), round_trip.load(plain))
        except YAMLError:
            raise UserError(f"{setting!r}: not YAML; put a text with special characters in quotes") from None
        except (AttributeError, IndexError, TypeError, ValueError):
            raise UserError(f"{setting!r}: {path} has no such key") from None
    changed = io.StringIO()
    round_trip.dump(document, changed)
    check_classes(parse_yaml(changed.getvalue(), path), path)
    write_atomic(path, changed.getvalue())


def _write_null(representer: Any, _: None) -> Any:
    """`null`, where ruamel would leave the place behind a key empty."""
    return representer.represent_scalar("tag:yaml.org,2002:null", "null")


def _set(node: Any, keys: Sequence[str], value: Any) -> None:
    """Set the value under nested keys, such as `datasets corpus sources 0 sha256`."""
    key: Any = int(keys[0]) if isinstance(node, list) else keys[0]
    if len(keys) == 1:
        node[key] = value
    elif isinstance(node, list):
        _set(node[key], keys[1:], value)
    else:
        _set(node.setdefault(key, CommentedMap()), keys[1:], value)


def write_schema() -> None:
    """Write params.schema.json anew, for params.yaml as it is."""
    write_atomic(SCHEMA_FILE, schema_text(read_yaml(PARAMS_FILE)))
