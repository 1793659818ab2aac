"""From a model folder to its model: config.json names the objective, which builds it."""

from importlib import import_module
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from llm.errors import UserError
from llm.formats.model_folder import load_model, read_config
from llm.generation.packed import pack_for_inference, pack_for_reading
from llm.loaded_model import LoadedModel
from llm.model.gpt import GPT
from llm.objectives.interface import Interface


def objective_package(folder: Path) -> ModuleType:
    """The package of llm/objectives that a model folder's config.json names. Raises UserError for an unknown one."""
    name = read_config(folder)["objective"]
    names = sorted(path.parent.name for path in Path(__file__).parent.glob("*/__init__.py"))
    if name not in names:
        raise UserError(f"{folder / 'config.json'}: objective {name!r} is not one of {', '.join(names)}")
    return import_module(f"{__package__}.{name}")


def interface_of(folder: Path) -> Interface:
    """What programs see of a model folder. Raises UserError where config.json lacks what says so."""
    try:
        return objective_package(folder).interface(read_config(folder))
    except KeyError as error:
        raise UserError(f"{folder / 'config.json'}: {error} is missing") from None


def load(folder: Path, device: torch.device | str = "cpu") -> LoadedModel[nn.Module]:
    """Read any model folder, in evaluation mode; raises as `load_model`."""
    return load_model(folder, device, build=objective_package(folder).build)


def load_for_inference(folder: Path) -> LoadedModel[nn.Module]:
    """Read any model folder for answers alone, its matrices in what a CPU multiplies fastest; raises as `load`."""
    model, encoding = load_model(folder, build=objective_package(folder).build, as_stored=True)
    if isinstance(model, GPT):
        return LoadedModel(pack_for_inference(model), encoding)
    model.gpt = pack_for_reading(model.float().gpt)
    return LoadedModel(model, encoding)
