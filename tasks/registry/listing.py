"""All that the registry holds under this namespace: models and versions, page by page."""

from collections.abc import Callable, Iterator
from typing import Any

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.store.entities.paged_list import PagedList

from tasks.registry.tracking import namespace


def own_models(client: MlflowClient) -> Iterator[tuple[str, RegisteredModel]]:
    """The registered models of this namespace alone, each with what the project calls it, such as `classifier`."""
    prefix = f"{namespace()}-"
    for model in _pages(client.search_registered_models, f"name LIKE '{prefix}%'"):
        if model.name.startswith(prefix):  # LIKE takes any character for `_`
            yield model.name.removeprefix(prefix), model


def versions(client: MlflowClient, name: str, having: str = "") -> list[ModelVersion]:
    """The versions of a registered model, the newest first; with `having`, those that this filter finds, too."""
    wanted = " AND ".join(filter(None, (f"name = '{name}'", having)))
    return sorted(_pages(client.search_model_versions, wanted), key=lambda each: -int(each.version))


def every_version(client: MlflowClient) -> Iterator[ModelVersion]:
    """The versions of all models, those of others, too."""
    yield from _pages(client.search_model_versions, "")


def _pages(search: Callable[..., PagedList], filter_string: str) -> Iterator[Any]:
    token = None
    while True:
        page = search(filter_string, page_token=token)
        yield from page
        if not (token := page.token):
            return
