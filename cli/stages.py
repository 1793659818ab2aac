"""`threestage fetch`, `preprocess`, `pretrain` and so on: DVC starts its stages by these commands."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.project import in_project
from cli.shared import Verbose, quick_imports
from tasks.stages.names import FOUNDATION, application_names, dataset_names, evaluation_stage, model_names, replay_names

if TYPE_CHECKING:
    from prefect import Flow


def _one_of(list_names: Callable[[], list[str]], noun: str) -> Any:
    """An argument that is one of the names in params.yaml."""

    def check(name: str) -> str:
        in_project()
        names = list_names()
        if name not in names:
            raise typer.BadParameter(f"{name!r} is not one of {', '.join(names)}")
        return name

    return typer.Argument(metavar=noun.upper(), callback=check, help=f"The name of one {noun} in params.yaml.")


Dataset = Annotated[str, _one_of(dataset_names, "dataset")]
Replay = Annotated[str, _one_of(replay_names, "replay")]
Application = Annotated[str, _one_of(application_names, "application")]
EvaluatedModel = Annotated[str, _one_of(model_names, "model")]
Resume = Annotated[bool, typer.Option("--resume/--no-resume", help="Go on from the last checkpoint.")]


def fetch(dataset: Dataset, verbose: Verbose = False) -> None:
    """Fetch the raw files of a dataset from its pinned sources."""
    with quick_imports():
        from flows.fetch import fetch as flow
        from tasks.params import load_sources

    def load() -> dict[str, Any]:
        return {"name": dataset, "params": load_sources(dataset)}

    _run(f"fetch@{dataset}", flow, load, verbose=verbose)


def preprocess(dataset: Dataset, verbose: Verbose = False) -> None:
    """Clean, de-duplicate, split and check a raw dataset.

    Nothing is written unless every check passes. Rows that may be too many for memory are kept in parts on disk, and an
    interrupted run goes on with the next part.
    """
    with quick_imports():
        from flows.preprocess import preprocess as flow
        from tasks.params import load_dataset

    def load() -> dict[str, Any]:
        return {"name": dataset, "params": load_dataset(dataset).preprocess}

    _run(f"preprocess@{dataset}", flow, load, verbose=verbose)


def load_published(verbose: Verbose = False) -> None:
    """Convert published weights to a model folder."""
    with quick_imports():
        from flows.load_published import load_published as flow
        from tasks.params import load_published_name

    def load() -> dict[str, Any]:
        return {"params": load_published_name()}

    _run("load_published", flow, load, verbose=verbose)


def pretrain(resume: Resume = True, verbose: Verbose = False) -> None:
    """Pre-train the foundation model on the corpus.

    The weights with the lowest validation loss are kept.
    """
    with quick_imports():
        from flows.pretrain import pretrain as flow
        from tasks.params import load_training

    def load() -> dict[str, Any]:
        return {"params": load_training(FOUNDATION), "resume": resume}

    _run("pretrain", flow, load, resume=resume, verbose=verbose)


def replay(name: Replay, verbose: Verbose = False) -> None:
    """Have a base answer the prompts that a fine-tune rehearses."""
    with quick_imports():
        from flows.replay import replay as flow
        from tasks.params import load_replay

    def load() -> dict[str, Any]:
        return {"name": name, "params": load_replay(name)}

    _run(f"replay@{name}", flow, load, verbose=verbose)


def finetune(application: Application, resume: Resume = True, verbose: Verbose = False) -> None:
    """Fine-tune a base into an application.

    The weights that are best on validation are kept.
    """
    with quick_imports():
        from flows.finetune import finetune as flow
        from tasks.params import load_training

    def load() -> dict[str, Any]:
        return {"name": application, "params": load_training(application), "resume": resume}

    _run(f"finetune@{application}", flow, load, resume=resume, verbose=verbose)


def evaluate(model: EvaluatedModel, verbose: Verbose = False) -> None:
    """Measure a model on the test split.

    The evidence that a reviewer reads is in reports/evaluation/.
    """
    with quick_imports():
        from flows.evaluate import evaluate as flow
        from tasks.params import load_evaluation

    def load() -> dict[str, Any]:
        return {"name": model, "params": load_evaluation(model)}

    _run(evaluation_stage(model), flow, load, verbose=verbose)


def _run(
    stage: str,
    flow: "Flow[..., Any]",
    load: Callable[[], dict[str, Any]],
    *,
    resume: bool = True,
    verbose: bool,
) -> None:
    """Run a stage in this process, and end with its exit code."""
    in_project()
    from tasks.params import check_params
    from tasks.stages.process import run_stage

    def check_and_load() -> dict[str, Any]:
        check_params()
        return load()

    again = "the same command" if resume else "the same command without --no-resume"
    raise typer.Exit(run_stage(stage, flow, check_and_load, again=again, verbose=verbose))
