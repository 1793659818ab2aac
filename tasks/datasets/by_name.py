"""Find a dataset by its name."""

from importlib import import_module

from tasks.data.dataset import Dataset


def find(name: str) -> Dataset:
    """The dataset in `tasks/datasets/<name>.py`. Raises ModuleNotFoundError without that file.

    The import is dynamic so that a new dataset is in no list: params.yaml names it.
    """
    dataset: Dataset = import_module(f"tasks.datasets.{name}").DATASET
    return dataset
