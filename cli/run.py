"""`threestage run`: bring everything up to date, or a model alone, with other parameters where asked to.

It asks DVC and the registry what there is to do before it starts anything.
"""

import time
from collections.abc import Sequence
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
        if not models:
            return f"Done in {lasted(started)}"
        from tasks.registry.register import registered
        from tasks.registry.summary import next_step, print_summary

        print_summary(registered(models), f"Done in {lasted(started)}")
        return next_step(models)

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
    from tasks.registry.summary import print_summary

    versions = registered(models)
    if not all(versions.values()):
        return False
    for model in versions:
        check_bytes(model)
    print_summary(versions, "Everything is up to date")
    return True
