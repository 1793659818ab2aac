"""A model in MLflow: logged once, by the run that trained it, with the code that serves it.

It has the run's parameters and datasets, an evaluation logs its metrics to it, and versions in the registry point to
it. A new version ships the code that its evidence was measured with: if the training's model has other code, or is in
another store, the registration logs the model again.
"""

import hashlib
import importlib.metadata
import json
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelStatus
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from packaging.version import Version

from tasks.registry.store import is_missing
from tasks.registry.tracking import active_run_id
from tasks.stages.hashes import PREFIX, digest, md5_of

BYTES, CODE = f"{PREFIX}.model", f"{PREFIX}.code"
"""Tags: DVC's MD5 of the model's folder, and a digest of the code that is shipped with it."""
SERVED = Path("tasks/served.py")
REQUIREMENTS = ("filelock", "jinja2", "mlflow", "numpy", "pandas", "pydantic")
REQUIREMENTS += ("safetensors", "tiktoken", "tokenizers", "torch")


def shipped_code(model: str) -> list[Path]:
    """The project's files that a served model needs: the pyfunc wrapper, `llm`, and its text cleaning."""
    cleaning = json.loads(Path("models", model, "config.json").read_text()).get("cleaning")
    folders = [Path("llm")]
    if cleaning:
        folders.append(Path(*cleaning.split(".")))
    files = [path for folder in folders for path in folder.rglob("*") if path.suffix in (".py", ".c", ".h")]
    return [SERVED, *sorted(files)]


def code_digest(model: str) -> str:
    """SHA-256 over the present code that ships with a model."""
    return digest({path.as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in shipped_code(model)})


def log_model(model: str) -> str:
    """Log `models/<model>` and its code to the active run, in place of a model from an interrupted try.

    Returns its id.
    """
    from tasks.served import cleaning_module, example, signature

    remove_models(active_run_id())
    weights = Path("models", model)
    cleaning = cleaning_module(weights)
    needed = sorted((*REQUIREMENTS, *(cleaning.REQUIREMENTS if cleaning else ())))
    with _code_paths(model) as code:
        logged = mlflow.pyfunc.log_model(
            name=model,
            python_model=str(SERVED),
            code_paths=code,
            artifacts={"model": str(weights)},
            signature=signature(weights),
            input_example=example(weights),
            pip_requirements=[f"{name}=={Version(importlib.metadata.version(name)).public}" for name in needed],
            tags={BYTES: md5_of(weights), CODE: code_digest(model)},
        )
    return logged.model_id


def find_model(md5: str, code: str | None = None) -> LoggedModel | None:
    """The newest complete model with these bytes and, if given, this code in this namespace."""
    filters = [f"tags.`{BYTES}` = '{md5}'"]
    if code:
        filters.append(f"tags.`{CODE}` = '{code}'")
    for model in mlflow.search_logged_models(filter_string=" AND ".join(filters), output_format="list"):
        if model.status == LoggedModelStatus.READY and is_whole(model.model_uri):
            return model
    return None


def is_whole(uri: str) -> bool:
    """Whether the store holds the files of a model. Raises the store's own error if it does not answer."""
    try:
        files = mlflow.artifacts.list_artifacts(uri)
    except FileNotFoundError:
        return False
    except MlflowException as error:
        if is_missing(error):
            return False
        raise
    return any(Path(file.path).name == "MLmodel" for file in files)


def remove_models(run_id: str) -> None:
    """Remove the models that a run logged, files included."""
    for model in mlflow.search_logged_models(filter_string=f"source_run_id = '{run_id}'", output_format="list"):
        get_artifact_repository(model.artifact_location).delete_artifacts()
        MlflowClient().delete_logged_model(model.model_id)


@contextmanager
def _code_paths(model: str) -> Generator[list[str]]:
    """Folders for MLflow to copy: `llm`, and a package `tasks` that holds only the text cleaning."""
    with tempfile.TemporaryDirectory() as folder:
        packages = set()
        for path in shipped_code(model):
            if path == SERVED:
                continue
            copy = Path(folder, path)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
            packages.add(path.parts[0])
            for parent in path.parents[:-1]:
                (Path(folder, parent) / "__init__.py").touch()
        yield [str(Path(folder, package)) for package in sorted(packages)]
