"""params.yaml as frozen, validated models, and the stages and folders that belong to a model.

The classes of a block come from its dataset or application: `tasks/datasets/<name>.py`,
`tasks/applications/<name>/train.py` and `measure.py`. A stage reads its own block alone. The section `review` has the
same form for all, and is optional.
"""

from collections.abc import Callable, Iterable
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, ValidationError, create_model

from llm.config import Config, Replay
from llm.errors import UserError
from tasks.stages.cross_checks import (
    FOUNDATION,
    LISTS,
    PUBLISHED,
    REPLAY,
    SMOKE,
    as_error,
    cross_errors,
    did_you_mean,
    place_of,
    published_errors,
    section_errors,
)
from tasks.stages.yaml_text import merged, read_yaml

PARAMS_FILE = Path("params.yaml")
PARTS = ("train", "evaluate", "review")  # sections of an application's block


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
    """Metrics in which the challenger must not be significantly worse than the champion, nor than the baseline: it is
    if the whole 95 % interval of the difference, paired by test row, is on the worse side."""
    ahead: tuple[str, ...] = ()
    """Metrics in which it must be significantly better than the baseline."""
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


def reduced(values: dict[str, Any], smoke: Smoke) -> dict[str, Any]:
    """All parameters, updated by those of a smoke run. Its blocks of missing datasets, replays and applications are
    ignored."""
    changes = {
        name: {key: each for key, each in new.items() if key in values[name]} if name in (*LISTS, REPLAY) else new
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
            return f"{where}: unknown key{did_you_mean(str(key), _known_keys(model, parents))}"
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
    place = f"{kind}.{name}" if kind == "datasets" else place_of(name)
    try:
        model = _block_type(kind, name, parts)
        parsed = model.model_validate(values)
    except ValidationError as error:
        as_error(path, [_reason(mistake, place, model) for mistake in error.errors()])
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
    values = read_yaml(path)
    as_error(path, published_errors({PUBLISHED: values.get(PUBLISHED)}))
    return values[PUBLISHED]


def load_replay(name: str, path: Path = PARAMS_FILE) -> Replay:
    """The block of a replay. Raises UserError naming file, key and reason."""
    return _parse_replay(name, _section(read_yaml(path), REPLAY, path).get(name, {}), path)


def _parse_replay(name: str, block: Any, path: Path) -> Replay:
    try:
        return Replay.model_validate(block)
    except ValidationError as error:
        as_error(path, [_reason(mistake, f"{REPLAY}.{name}", Replay) for mistake in error.errors()])


def load_smoke(path: Path = PARAMS_FILE) -> Smoke:
    """The section `smoke`.

    Raises UserError naming file, key and reason, also for a block that its values make invalid.
    """
    return _parse_smoke(read_yaml(path), path)


def _parse_smoke(values: dict[str, Any], path: Path) -> Smoke:
    try:
        smoke = Smoke.model_validate(_section(values, SMOKE, path))
    except ValidationError as error:
        as_error(path, [_reason(mistake, SMOKE, Smoke) for mistake in error.errors()])
    sections = (*LISTS, PUBLISHED, REPLAY, FOUNDATION)
    as_error(path, [f"{SMOKE}.params.{name}: unknown key" for name in smoke.params if name not in sections])
    _check_blocks(reduced(values, smoke), Path(f"{path}: {SMOKE}.params"))
    return smoke


def dataset_names(path: Path = PARAMS_FILE) -> list[str]:
    """The datasets, in the order of params.yaml."""
    return list(_section(read_yaml(path), "datasets", path))


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
    """Check sections, sources, and what blocks of params.yaml say about each other. Raise UserError with a line each.

    It takes a moment, as it imports no dataset and no model. Runs, stages and `threestage status` begin with it, so
    that no mistake is found in the middle of a run, or reported by DVC, which is less clear.
    """
    _check_outline(read_yaml(path), path)


def _check_outline(values: dict[str, Any], path: Path) -> None:
    as_error(path, section_errors(values))
    checks = [partial(_check_sources, name, block, path) for name, block in values["datasets"].items()]
    _check_all([*checks, lambda: as_error(path, cross_errors(values))])


def _check_sources(name: str, block: Any, path: Path) -> None:
    """The sources of a dataset, and the globs of `train_only` that name them."""
    try:
        outline = _outline_type().model_validate(block)
    except ValidationError as error:
        as_error(path, [_reason(mistake, f"datasets.{name}", _outline_type()) for mistake in error.errors()])
    try:
        if outline.sources:
            import_module("tasks.data.sources").check_globs(outline.sources, outline.preprocess.train_only)
    except UserError as error:
        raise UserError(f"{path}: datasets.{name}.preprocess.train_only: {error}") from None


def check_params(path: Path = PARAMS_FILE) -> None:
    """Check all of params.yaml. Raises UserError, a line for each mistake that names file, key, reason and way out."""
    check_values(read_yaml(path), path)


def check_values(values: dict[str, Any], path: Path = PARAMS_FILE) -> None:
    """Check what params.yaml holds, or would hold. Raises as `check_params` does."""
    as_error(path, section_errors(values))
    _check_all([partial(_check_outline, values, path), partial(_check_blocks, values, path)])
    if SMOKE in values:
        _parse_smoke(values, path)


def _check_blocks(values: dict[str, Any], path: Path) -> None:
    """Each block by its own class, and what blocks say about each other."""
    checks: list[Callable[[], object]] = [lambda: as_error(path, cross_errors(values))]
    checks += [partial(_parse, "datasets", name, block, path) for name, block in values["datasets"].items()]
    checks += [partial(_parse_replay, name, block, path) for name, block in values[REPLAY].items()]
    models = {FOUNDATION: values[FOUNDATION], **values["applications"]}
    checks += [partial(_parse, "applications", name, block, path) for name, block in models.items()]
    _check_all(checks)


def _check_all(checks: Iterable[Callable[[], object]]) -> None:
    """Run all checks, and raise their errors as one, a line for each mistake."""
    lines: list[str] = []
    for check in checks:
        try:
            check()
        except UserError as error:
            lines += str(error).splitlines()
    if lines:
        raise UserError("\n".join(dict.fromkeys(lines)))
