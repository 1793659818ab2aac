"""A model as files that other programs load: Hugging Face's folder, or a GGUF file with a Modelfile, and a card."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from huggingface_hub import EvalResult, ModelCardData
from pydantic import ValidationError

from app.registry import Registry, find
from llm.chat import Chat
from llm.errors import UserError
from llm.files import atomic_folder
from llm.formats.export_gguf import Precision, export_gguf
from llm.formats.export_huggingface import export_huggingface
from llm.formats.model_folder import load_model, read_config
from llm.formats.modelfile import modelfile
from llm.objectives import CHAT, COMPLETE, interface_of
from tasks.data.published import PUBLISHED
from tasks.registry.main_figures import Figure, own_figures
from tasks.registry.markup import render_markdown
from tasks.registry.versions import registered_name
from tasks.served import example
from tasks.stages.hashes import LOCK, as_hashes, locked_stages, stages_behind

Form = Literal["hf", "gguf"]
CARD = Path(__file__).with_name("export_card.md.j2")
OTHER = "other"
"""Hugging Face's word for a licence that is none of its list."""


@dataclass(frozen=True)
class Exported:
    """A model folder, and what is known of its origins."""

    name: str
    """Such as `assistant-3`."""
    folder: Path
    uri: str
    """Where MLflow finds it."""
    card: str = ""
    """In Markdown."""
    figures: list[Figure] = field(default_factory=list)
    """On the test split."""
    stages: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The stages that made it, as dvc.lock has them."""

    @property
    def base(self) -> str | None:
        """The name of the published weights that it started from, as in params.yaml."""
        stage = self.stages.get("load_published")
        return stage["params"]["params.yaml"]["published"] if stage else None

    @property
    def longest_answer(self) -> int | None:
        """The most tokens of an answer in its evaluation; None for a model whose evaluation has no answers."""
        for name, stage in self.stages.items():
            if name.startswith("evaluate@"):
                settings = stage["params"]["params.yaml"]
                return next((value["max_new_tokens"] for value in settings.values() if _limits_answers(value)), None)
        return None

    @property
    def sources(self) -> list[Mapping[str, Any]]:
        """The sources of its data, each once, with the dataset that they are for."""
        sources = []
        for name, stage in self.stages.items():
            step, _, dataset = name.partition("@")
            if step == "fetch":
                entries = stage["params"]["params.yaml"][f"datasets.{dataset}.sources"]
                sources += [{"dataset": dataset, **_as_mapping(entry)} for entry in entries]
        return sources


def _limits_answers(settings: Any) -> bool:
    return isinstance(settings, Mapping) and "max_new_tokens" in settings


def _as_mapping(source: str | Mapping[str, Any]) -> Mapping[str, Any]:
    return {"source": source} if isinstance(source, str) else source


def _stages_of(folder: Path) -> Mapping[str, Mapping[str, Any]]:
    """The stages that made a folder, by the dvc.lock of the project that it is in; none elsewhere."""
    for project in folder.parents:
        if (project / LOCK).exists():
            stages = locked_stages(project / LOCK)
            path = folder.relative_to(project).as_posix()
            makers = [name for name, entry in stages.items() if path in as_hashes(entry).outs]
            return stages_behind(*makers, stages=stages)
    return {}


@contextmanager
def find_model(name: str) -> Iterator[Exported]:
    """A model folder of this machine by its path, or a registered version by its name, while the block lasts.

    Raises UserError for neither.
    """
    local = Path(name)
    if (local / "config.json").exists():
        local = local.resolve()
        uri = f"models:/{registered_name(local.name)}@champion"
        yield Exported(name=local.name, folder=local, uri=uri, stages=_stages_of(local))
        return
    registry = Registry()
    version = find(registry.read(), name).name
    with TemporaryDirectory() as fetched:
        yield Exported(
            name=f"{version.model}-{version.version}",
            folder=registry.files(version, Path(fetched)),
            uri=f"models:/{registered_name(version.model)}/{version.version}",
            card=registry.card(version) or "",
            figures=own_figures(registry.metrics(version)),
            stages=registry.stages(version),
        )


def export(name: str, form: Form, folder: Path, precision: Precision = "stored") -> None:
    """Write a model into a new or empty folder, as other programs load it.

    Raises UserError for a model that is unknown or is no GPT alone, and for a folder that is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not empty: name a new folder")
    with find_model(name) as exported:
        if not {CHAT, COMPLETE} & {*interface_of(exported.folder).capabilities}:
            raise UserError(_use_mlflow(exported))
        chat = _chat_of(exported.folder)
        loaded = load_model(exported.folder, as_stored=True)
        with atomic_folder(folder) as partial:
            if form == "hf":
                export_huggingface(partial, loaded, chat, max_new_tokens=exported.longest_answer)
            else:
                file = f"{exported.name}.gguf"
                export_gguf(partial / file, loaded, chat, precision=precision, details=_details(exported))
                if chat:
                    text = modelfile(
                        file,
                        loaded.encoding,
                        chat,
                        context_length=loaded.model.config.context_length,
                        licence=_licence(exported),
                    )
                    (partial / "Modelfile").write_text(text, encoding="utf-8")
            (partial / "README.md").write_text(card_text(exported, form, is_chat=chat is not None), encoding="utf-8")


def _chat_of(folder: Path) -> Chat | None:
    try:
        chat = read_config(folder).get("chat")
        return None if chat is None else Chat.model_validate(chat)
    except ValidationError as error:
        raise UserError(f"{folder / 'config.json'}: chat: {error.errors()[0]['msg']}") from None


def _use_mlflow(exported: Exported) -> str:
    rows = example(exported.folder).to_dict("records")
    return (
        f"{exported.name} has a head and a text cleaning, for which these formats have no place; use it in Python:\n"
        f"  import mlflow, pandas\n"
        f'  model = mlflow.pyfunc.load_model("{exported.uri}")\n'
        f"  model.predict(pandas.DataFrame({rows}))"
    )


def _licence(exported: Exported) -> str:
    """The SPDX name of the base's licence; a model made from scratch has the licences of its sources."""
    return PUBLISHED[exported.base].licence if exported.base in PUBLISHED else OTHER


def _details(exported: Exported) -> dict[str, Any]:
    """The fields of GGUF's block `general`."""
    details: dict[str, Any] = {"name": exported.name, "license": _licence(exported)}
    if exported.base in PUBLISHED:
        origin = PUBLISHED[exported.base]
        details |= {
            "base_model.count": 1,
            "base_model.0.name": origin.repository.rpartition("/")[2],
            "base_model.0.organization": origin.repository.partition("/")[0],
            "base_model.0.repo_url": f"https://huggingface.co/{origin.repository}",
        }
    for number, source in enumerate(exported.sources):
        details[f"dataset.{number}.name"] = source["source"]
    if exported.sources:
        details["dataset.count"] = len(exported.sources)
    return details


def card_text(exported: Exported, form: Form, *, is_chat: bool) -> str:
    """README.md: metadata that Hugging Face reads, then the model's card and how to load it."""
    results = []
    for figure in exported.figures:
        results.append(
            EvalResult(
                task_type="text-generation",
                dataset_type="own",
                dataset_name="own test split",
                dataset_split="test",
                metric_type=figure.name,
                metric_value=round(figure.value, 4),
            )
        )
    licence = _licence(exported)
    base = PUBLISHED[exported.base].repository if exported.base in PUBLISHED else None
    metadata = ModelCardData(
        language="en",
        license=licence,
        license_name="of-its-sources" if licence == OTHER else None,
        library_name="transformers" if form == "hf" else "gguf",
        pipeline_tag="text-generation",
        base_model=base,
        model_name=exported.name,
        eval_results=results or None,
    )
    return render_markdown(
        CARD,
        metadata=metadata.to_yaml(),
        name=exported.name,
        card=exported.card,
        sources=exported.sources,
        base=base,
        form=form,
        is_chat=is_chat,
    )
