"""The version that a person names."""

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion, RegisteredModel

from llm.errors import UserError
from tasks.registry.decide import CHAMPION
from tasks.registry.listing import versions
from tasks.registry.register import CHALLENGER, registered_name
from tasks.registry.server import if_there


def find_version(named: str) -> ModelVersion:
    """The version that `models:/NAME/VERSION` or `models:/NAME@ALIAS` names, or a model's name alone.

    The name may be the one in params.yaml, such as `classifier`, and `models:/` be left out. With neither version nor
    alias it is the champion, or else the challenger, or else the newest. Raises UserError for what there is not.
    """
    place = named.removeprefix("models:/")
    name, at, alias = place.partition("@")
    name, _, wanted = (name, "", "") if at else place.partition("/")
    model = _registered(name) or _registered(registered_name(name))
    if model is None:
        there = ", ".join(each.name for each in MlflowClient().search_registered_models(max_results=20))
        raise UserError(f"{named}: there is no such registered model; {_there_are(there)}")
    numbers = sorted(int(each.version) for each in versions(MlflowClient(), model.name))
    if at:
        wanted = model.aliases.get(alias, "")
    elif not wanted:
        newest = str(numbers[-1]) if numbers else ""
        wanted = model.aliases.get(CHAMPION) or model.aliases.get(CHALLENGER) or newest
    if str(wanted) not in map(str, numbers):
        of = {str(version): alias for alias, version in model.aliases.items()}
        there = ", ".join(f"{each} ({of[str(each)]})" if str(each) in of else str(each) for each in numbers)
        raise UserError(f"{named}: {model.name} has no such version; {_there_are(there)}")
    return MlflowClient().get_model_version(model.name, str(wanted))


def _there_are(names: str) -> str:
    return f"there are: {names}" if names else "there are none yet: run `python -m flows`"


def _registered(name: str) -> RegisteredModel | None:
    return if_there(lambda: MlflowClient().get_registered_model(name)) if name else None
