"""`threestage run`: bring everything up to date, or a model alone, with other parameters where asked to.

It asks DVC and the registry what there is to do before it starts anything.
"""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from app.project import in_project
from cli.shared import Verbose, quick_imports, run_and_exit, tracebacks
from llm.errors import UserError


def run(
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TARGET]...",
            help="A model such as assistant, a dataset or a stage such as finetune@assistant: it and what it needs. "
            "By default everything.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Write a value into params.yaml first; repeat it for more."),
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Bring models, evaluations, registry and reviews up to date."""
    in_project()
    from tasks.stages.parent_death import tie_to_parent

    tie_to_parent()
    started = time.monotonic()
    with quick_imports(), tracebacks(verbose):
        if settings:
            _set(settings)
        stages = _stages_of(targets) if targets else []
        models = _models_of(stages)
        stale = _is_something_stale(stages)
        if not stale and models and _print_if_all_is_registered(models):
            return
    from tasks.params import check_classes
    from tasks.stages.names import PARAMS_FILE
    from tasks.stages.prefect import prefect_server, run_flow
    from tasks.stages.process import lasted
    from tasks.stages.yaml_text import read_yaml

    def check() -> None:
        if stale:  # if nothing is stale, the parameters ran before; checking them imports the models' libraries
            check_classes(read_yaml(PARAMS_FILE))

    def work() -> str:
        with prefect_server(meanwhile=check):
            from flows.retrain import retrain
            from tasks.stages.libraries import write_libraries

            write_libraries()  # the checks are done: from here on DVC must know what computes
            run_flow(retrain, {"share": False, "stages": stages})
        done = f"Done in {lasted(started)}"
        if not models:
            return done
        from tasks.registry.register import registered

        return _print_summary(registered(models), done)

    run_and_exit("flows", work, verbose)


def _set(settings: Sequence[str]) -> None:
    """Write values into params.yaml, all or none, after a check of everything that it then holds."""
    from tasks.params import set_params

    set_params(settings)


def _stages_of(targets: Sequence[str]) -> list[str]:
    """The last stage of each target: that which evaluates a model, preprocesses a dataset, or the stage itself.

    Raises UserError for a target that is none of these.
    """
    from tasks.stages import dvc
    from tasks.stages.names import dataset_names, evaluation_stage, model_names

    stage_of = {model: evaluation_stage(model) for model in model_names()}
    stage_of |= {dataset: f"preprocess@{dataset}" for dataset in dataset_names()}
    stage_of |= {name: name for name in dvc.stages()}
    for target in targets:
        if target not in stage_of:
            raise UserError(f"there is no target {target!r}; those are {', '.join(stage_of)}")
    return [stage_of[target] for target in targets]


def _models_of(stages: Sequence[str]) -> list[str]:
    """The models that these stages evaluate, or need to; all for no stage."""
    from tasks.stages import dvc
    from tasks.stages.names import evaluation_stage, model_names

    if not stages:
        return model_names()
    needed = dvc.stages(stages)
    return [model for model in model_names() if evaluation_stage(model) in needed]


def _is_something_stale(stages: Sequence[str]) -> bool:
    """Whether one of these stages or of those that they need is stale, or a library that computes has another version
    than the recorded one. No stages stand for all."""
    from tasks.params import check_params
    from tasks.stages import dvc
    from tasks.stages.libraries import installed, recorded

    check_params()
    return recorded() != installed() or bool(dvc.stale(stages))


def _print_if_all_is_registered(models: list[str]) -> bool:
    """Print the summary if the models are registered with the bytes in this folder; whether they are."""
    from tasks.registry.register import check_bytes, registered

    versions = registered(models)
    if not all(versions.values()):
        return False
    for model in versions:
        check_bytes(model)
    _print_summary(versions, "Everything is up to date")
    return True


def _print_summary(versions: Mapping[str, str | None], done: str) -> str:
    """Print each model's main figures and version, and what to do next, which is returned, too."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(title=done, title_justify="left", title_style="bold")
    for column in ("model", "on the test split", "registered"):
        table.add_column(column)
    for model, version in versions.items():
        table.add_row(model, _figures(model), version or "not registered", end_section=True)
    console.print(table)
    waiting = [model for model, version in versions.items() if version and "challenger" in version]
    step = "`make serve` talks to the models; `make ui` opens the MLflow registry and the Prefect runs"
    if waiting:
        review = "`threestage review` names their pages, then `threestage approve MODEL --reason TEXT` decides"
        step = f"decide on {', '.join(waiting)}: {review}. {step}"
    console.print(f"Next: {step}", soft_wrap=True, markup=False, highlight=False)
    return step


def _figures(model: str) -> str:
    """The main figures of a model, one a line, each next to its baseline."""
    from tasks.registry.main_figures import main_figures, own_figures
    from tasks.registry.markup import number

    path = Path("reports/evaluation", model, "metrics.json")
    values = json.loads(path.read_text()) if path.exists() else {}
    main = main_figures(model)
    lines = []
    for figure in own_figures(values):
        if main and figure.name not in main:
            continue
        interval = f", {figure.interval}" if figure.interval else ""
        baseline = "" if figure.baseline is None else f" (baseline {number(figure.baseline)})"
        lines.append(f"{figure.name} {number(figure.value)}{interval}{baseline}")
    return "\n".join(lines) or "not evaluated"
