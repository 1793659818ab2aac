"""params.yaml as frozen, validated models, and the stages and folders that belong to a model.

The classes of a block come from its dataset or application: `tasks/datasets/<name>.py`,
`tasks/applications/<name>/train.py` and `evaluate.py`. A stage reads its own block alone. The section `review` has the
same form for all, and is optional.
"""

import difflib
from collections.abc import Hashable
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import ConfigDict, Field, ValidationError, create_model

from llm.config import Config, Replay
from llm.errors import UserError, UserFileError

PARAMS_FILE = Path("params.yaml")
FOUNDATION = "foundation"
PUBLISHED = "published"
REPLAY = "replay"
NOTHING_TO_REHEARSE = Path("data/replay/nothing.jsonl")
SWITCHED_OFF = "switched_off"  # blocks of applications that no stage runs
SMOKE = "smoke"
PARTS = ("train", "evaluate", "review")  # sections of an application's block
LISTS = ("datasets", "applications")  # sections that hold named blocks


class Bounds(Config):
    """Bounds on metrics of an evaluation, by name."""

    at_least: dict[str, float] = Field({})
    """Least values."""
    at_most: dict[str, float] = Field({})
    """Greatest values."""


class Gates(Bounds):
    """The gates that a challenger must pass.

    Gates on answers, data quality, lineage and card are always checked, too.
    """

    no_loss: tuple[str, ...] = ()
    """Metrics in which the challenger must not be significantly worse than the champion, or than the baseline if there
    is no champion: it is if the whole 95 % interval of the difference, paired by test row, is on the worse side."""
    drift: Annotated[float, Field(gt=0)] | None = None
    """The largest distance of the training data from the champion's in any property, as a population stability index:
    above 0.25 is conventionally large. Null turns this gate off."""


class Smoke(Config):
    """The parameters and bounds of a smoke run; no stage reads them."""

    raw: tuple[str, ...] = ()
    """Globs of the files below `data/raw/` that it reads. A dataset without a glob is read whole."""
    params: dict[str, Any] = Field({})
    """Values that replace those of params.yaml, in existing blocks."""
    bounds: dict[str, Bounds] = Field(min_length=1)
    """By model; other models are not trained."""


class _UniqueKeys(yaml.CSafeLoader):
    """Rejects a mapping with a duplicate key."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key, line = self.construct_object(key_node, deep=True), key_node.start_mark.line + 1
            if not isinstance(key, Hashable):
                raise UserError(f"row {line}: {key!r} is no key")
            if key in seen:
                raise UserError(f"row {line}: {key} stands here and in row {seen[key]}; keep one of them")
            seen[key] = line
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping. Raises UserError, naming file, row and reason, for anything else and for no file."""
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)
    except FileNotFoundError:
        raise UserFileError(f"{path}: there is no such file in {Path.cwd()}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.object[error.start]:#04x} is not UTF-8; save the file as UTF-8") from None
    except yaml.MarkedYAMLError as error:
        row = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{path}, row {row}: not YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: {' '.join(str(error).split())}") from None
    except UserError as error:
        raise UserError(f"{path}, {error}") from None
    except RecursionError:
        raise UserError(f"{path}: it is nested too deep") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds {'nothing' if values is None else repr(values)}, not sections")
    return values


def merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Nested values, updated by others."""
    inner = {key: merged(values.get(key) or {}, new) for key, new in changes.items() if isinstance(new, dict)}
    return values | changes | inner


def reduced(values: dict[str, Any], smoke: Smoke) -> dict[str, Any]:
    """All parameters, updated by those of a smoke run. Its blocks of missing datasets and applications are ignored."""
    changes = {
        name: {key: each for key, each in new.items() if key in values[name]} if name in LISTS else new
        for name, new in smoke.params.items()
    }
    return merged(values, changes)


def _find(package: str, finder: str, name: str) -> Any:
    """The dataset or application of a name, by a finder of its package. Raises UserError if its file is missing."""
    try:
        return getattr(import_module(f"tasks.{package}"), finder)(name)
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith(f"tasks.{package}.{name}"):
            raise
        place = error.name.replace(".", "/")
        raise UserError(f"{package}.{name}: there is no {place}{'.py' if package == 'datasets' else ''}") from None


@cache
def _outline_type() -> type[Config]:
    """The model of the fields that all datasets have; `_block_type` checks the rest."""
    source = import_module("tasks.data.sources").Source
    rest = ConfigDict(Config.model_config, extra="allow")
    preprocess = create_model("preprocess", __config__=rest, train_only=(tuple[str, ...], ()))
    fields = {"sources": (list[source], Field(default=[], min_length=1)), "preprocess": (preprocess, preprocess())}
    return create_model("outline", __config__=rest, **fields)


@cache
def _block_type(kind: str, name: str, parts: tuple[str, ...] = PARTS) -> type[Config]:
    """The model of one block; sections of an application that are not among `parts` are not checked."""
    if kind == "datasets":
        found = _find("datasets", "find", name)
        source = import_module("tasks.data.sources").Source
        fields = {"sources": (list[source], Field(min_length=1)), "preprocess": (found.params, ...)}
    else:
        fields = {"dataset": (str, ...), "objective": (str, ...), **dict.fromkeys(PARTS, (dict[str, Any], {}))}
        if "train" in parts:
            fields["train"] = (_find("applications", "training", name).train, ...)
        if "evaluate" in parts:
            fields["evaluate"] = (_find("applications", "evaluation", name).params, ...)
        if "review" in parts:
            fields["review"] = (Gates, Gates())
        if name != FOUNDATION:
            fields["base"] = (str, ...)
            fields["rehearses"] = (Path, ...)
    return create_model(name, __base__=Config, **fields)


def _reason(error: dict[str, Any], place: str, model: type[Config]) -> str:
    *parents, key = error["loc"] or ("",)
    where = ".".join([place, *map(str, error["loc"])])
    match error["type"]:
        case "extra_forbidden":
            close = difflib.get_close_matches(str(key), _known_keys(model, parents), n=1)
            return f"{where}: unknown key" + (f"; did you mean {close[0]}?" if close else "")
        case "missing":
            return f"{where}: missing"
        case _:
            message = error["msg"].removeprefix("Value error, ")
            said = "" if isinstance(error["input"], dict) else f", not {error['input']!r}"
            return f"{where}: {message[0].lower()}{message[1:]}{said}"


def _known_keys(model: Any, location: list[int | str]) -> list[str]:
    """The keys that the mapping at `location` takes."""
    for part in location:
        if part in model.model_fields:  # not an index of a list, and not a mapping's own name
            annotation = model.model_fields[part].annotation
            parts = getattr(annotation, "__args__", (annotation,))
            model = next(each for each in parts if hasattr(each, "model_fields"))
    return list(model.model_fields)


def _parse(kind: str, name: str, values: Any, path: Path, parts: tuple[str, ...] = PARTS) -> Config:
    place = name if name == FOUNDATION else f"{kind}.{name}"
    try:
        model = _block_type(kind, name, parts)
        parsed = model.model_validate(values)
    except ValidationError as error:
        raise UserError("; ".join(f"{path}: {_reason(each, place, model)}" for each in error.errors())) from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    if kind == "applications" and parsed.objective != (wanted := _find(kind, "training", name).objective):
        raise UserError(
            f"{path}: {place}.objective: tasks/applications/{name}/train.py has {wanted}, not {parsed.objective!r}"
        )
    return parsed


def _section(values: dict[str, Any], name: str, path: Path) -> dict[str, Any]:
    found = values.get(name)
    if not isinstance(found, dict):
        raise UserError(f"{path}: {name}: {'missing' if found is None else f'{found!r} is no mapping of names'}")
    return found


def load_dataset(name: str, path: Path = PARAMS_FILE) -> Config:
    """The block of a dataset: `sources` and `preprocess`. Raises UserError naming file, key and reason."""
    return _parse("datasets", name, _section(read_yaml(path), "datasets", path).get(name, {}), path)


def load_preprocess(name: str, path: Path = PARAMS_FILE) -> Config:
    """The `preprocess` section of a dataset; its sources are not checked."""
    block = _section(read_yaml(path), "datasets", path).get(name) or {}
    return _parse("datasets", name, {**block, "sources": ["."]}, path).preprocess


def load_application(name: str, path: Path = PARAMS_FILE, parts: tuple[str, ...] = PARTS) -> Config:
    """The block of the foundation or an application.

    It has `dataset`, `train`, `evaluate`, `review` and, for applications, `base`. Only the sections in `parts` are
    checked, as each check imports its stage's libraries; the others are mappings. Raises UserError naming file, key and
    reason.
    """
    values = read_yaml(path)
    found = values if name == FOUNDATION else _section(values, "applications", path)
    return _parse("applications", name, found.get(name, {}), path, parts)


load_training = partial(load_application, parts=("train",))
load_evaluation = partial(load_application, parts=("evaluate",))


def load_published_name(path: Path = PARAMS_FILE) -> str:
    """The published weights that fine-tunes may start from. Raises UserError if params.yaml names none."""
    name = read_yaml(path).get(PUBLISHED)
    if not isinstance(name, str):
        raise UserError(f"{path}: {PUBLISHED}: {'missing' if name is None else f'{name!r} is no name of weights'}")
    published = import_module("tasks.data.published")
    if not published.is_published(name):
        known = ", ".join(published.PUBLISHED)
        raise UserError(f"{path}: {PUBLISHED}: {name!r} is not one of {known}, and no folder or .gguf file here")
    return name


def load_replay(name: str, path: Path = PARAMS_FILE) -> Replay:
    """The block of a replay. Raises UserError naming file, key and reason."""
    return _parse_replay(name, _section(read_yaml(path), REPLAY, path).get(name, {}), path)


def _parse_replay(name: str, block: Any, path: Path) -> Replay:
    try:
        return Replay.model_validate(block)
    except ValidationError as error:
        reasons = [_reason(detail, f"{REPLAY}.{name}", Replay) for detail in error.errors()]
        raise UserError("; ".join(f"{path}: {reason}" for reason in reasons)) from None


def load_smoke(path: Path = PARAMS_FILE) -> Smoke:
    """The section `smoke`.

    Raises UserError naming file, key and reason, also for a block that its values make invalid.
    """
    values = read_yaml(path)
    try:
        smoke = Smoke.model_validate(_section(values, SMOKE, path))
    except ValidationError as error:
        raise UserError("; ".join(f"{path}: {_reason(each, SMOKE, Smoke)}" for each in error.errors())) from None
    if unknown := [name for name in smoke.params if name not in (*LISTS, PUBLISHED, REPLAY, FOUNDATION)]:
        raise UserError(f"{path}: {SMOKE}.params.{unknown[0]}: unknown key")
    _check_blocks(reduced(values, smoke), Path(f"{path}: {SMOKE}.params"))
    return smoke


def dataset_names(path: Path = PARAMS_FILE) -> list[str]:
    """The datasets, in the order of params.yaml."""
    return list(_section(read_yaml(path), "datasets", path))


def replay_file(name: str) -> Path:
    """The answers that a replay makes, an out of its stage."""
    return Path("data/replay") / f"{name}.jsonl"


def replay_names(path: Path = PARAMS_FILE) -> list[str]:
    """The replays, in the order of params.yaml."""
    return list(_section(read_yaml(path), REPLAY, path))


def application_names(path: Path = PARAMS_FILE) -> list[str]:
    """The applications that are fine-tuned, in the order of params.yaml."""
    return list(_section(read_yaml(path), "applications", path))


def model_names(path: Path = PARAMS_FILE) -> list[str]:
    """Every model that is evaluated and registered: the foundation, then the applications."""
    return [FOUNDATION, *application_names(path)]


def training_stage(model: str) -> str:
    """The DVC stage that trains a model."""
    return "pretrain" if model == FOUNDATION else f"finetune@{model}"


def evaluation_stage(model: str) -> str:
    """The DVC stage that measures a model."""
    return "evaluate_foundation" if model == FOUNDATION else f"evaluate@{model}"


def training_report(model: str) -> Path:
    """The folder of a model's training report."""
    return Path("reports/training") / ("pretrain" if model == FOUNDATION else model)


def check_outline(path: Path = PARAMS_FILE) -> None:
    """Raise UserError for mistakes that would stop a run in its middle, or that DVC reports less clearly.

    These are a missing or unknown section, and sources and `train_only` globs that don't match. It is fast, as it
    imports no dataset and no model.
    """
    values = read_yaml(path)
    sections = ("datasets", PUBLISHED, REPLAY, FOUNDATION, "applications", SWITCHED_OFF, SMOKE)
    if unknown := [key for key in values if key not in sections]:
        close = difflib.get_close_matches(str(unknown[0]), sections, n=1)
        raise UserError(f"{path}: {unknown[0]}: unknown key" + (f"; did you mean {close[0]}?" if close else ""))
    datasets, *_ = (_section(values, name, path) for name in ("datasets", REPLAY, FOUNDATION, "applications"))
    check_globs = import_module("tasks.data.sources").check_globs
    for name, block in datasets.items():
        try:
            outline = _outline_type().model_validate(block)
            if outline.sources:
                check_globs(outline.sources, outline.preprocess.train_only)
        except ValidationError as error:
            reasons = [_reason(each, f"datasets.{name}", _outline_type()) for each in error.errors()]
            raise UserError("; ".join(f"{path}: {each}" for each in reasons)) from None
        except UserError as error:
            raise UserError(f"{path}: datasets.{name}.preprocess.{error}") from None


def check_params(path: Path = PARAMS_FILE) -> None:
    """Check all of params.yaml. Raises UserError naming file, key and reason for the first invalid block."""
    check_outline(path)
    values = read_yaml(path)
    if PUBLISHED in values:
        load_published_name(path)
    _check_blocks(values, path)
    if SMOKE in values:
        load_smoke(path)


def _check_blocks(values: dict[str, Any], path: Path) -> None:
    datasets, applications = values["datasets"], values["applications"]
    blocks = {FOUNDATION: values[FOUNDATION], **applications}
    bases = [*blocks, *([PUBLISHED] if PUBLISHED in values else [])]
    replays = [replay_file(name) for name in values[REPLAY]]
    for name, block in datasets.items():
        _parse("datasets", name, block, path)
    for name, block in blocks.items():
        parsed = _parse("applications", name, block, path)
        place = name if name == FOUNDATION else f"applications.{name}"
        if parsed.dataset not in datasets:
            raise UserError(f"{path}: {place}.dataset: {parsed.dataset!r} is not one of {', '.join(datasets)}")
        if name != FOUNDATION and parsed.base not in bases:
            raise UserError(f"{path}: {place}.base: {parsed.base!r} is not one of {', '.join(bases)}")
        if name != FOUNDATION and not (parsed.rehearses in replays or parsed.rehearses.exists()):
            ways_out = ", ".join(map(str, (NOTHING_TO_REHEARSE, *replays)))
            raise UserError(f"{path}: {place}.rehearses: there is no {parsed.rehearses}; name one of {ways_out}")
    for name, block in values[REPLAY].items():
        if (base := _parse_replay(name, block, path).base) not in bases:
            raise UserError(f"{path}: {REPLAY}.{name}.base: {base!r} is not one of {', '.join(bases)}")
