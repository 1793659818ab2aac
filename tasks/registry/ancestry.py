"""What a registered version was made from, back to the pinned sources: a graph of versions, models and data.

A registration writes down, as `lineage/stages.json`, what dvc.lock says of every stage behind the version; a version
without that is read by the dvc.lock here, as far as its hashes are the same. On which machine and from which commit
each thing was made, MLflow's runs say; who decided what, the registry.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion

from llm.errors import UserError
from llm.files import write_atomic
from tasks.registry.facts import UNCOMMITTED, prefect_page
from tasks.registry.find import find_version
from tasks.registry.listing import versions
from tasks.registry.record import DATA, find_run, holds, read_record
from tasks.registry.register import EVALUATION_RUN, TRAINING_RUN, registered_name
from tasks.registry.standing import BY, REASON, REVIEW, history
from tasks.registry.tracking import configure_tracking, made_by, server_errors
from tasks.stages.hashes import PREFIX, as_hashes, flatten, locked_stages
from tasks.stages.libraries import LIBRARIES
from tasks.stages.params import PUBLISHED, evaluation_stage, training_stage

STAGES = "lineage/stages.json"
MODELS, DATASETS, RAW, INBOX = "models", "data/processed", "data/raw", "data/inbox"
KINDS = {DATASETS: "dataset", RAW: "raw data", INBOX: "inbox", MODELS: "model"}
MADE = f"{PREFIX}.dvc.out.{MODELS}/"
USED = f"{PREFIX}.dvc.dep."
SCRATCH = "scratch"
VERSION = " version "  # between the name and the number of one
HASH = 12  # characters of one, for people

Stages = Mapping[str, Mapping[str, Any]]
"""Stages as dvc.lock has them, by their names."""


@dataclass(frozen=True)
class Node:
    """A version, or something that it was made from."""

    kind: str
    """`version`, `model`, `weights`, `dataset`, `raw data`, `inbox` or `source`."""
    name: str
    hash: str
    """DVC's MD5 of its bytes; of a source its SHA-256. Empty where nobody wrote it down."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What is known of it, in reading order: text, lists of text, or mappings of names to values."""
    made_from: tuple["Node", ...] = ()

    @property
    def title(self) -> str:
        """What a person calls it."""
        name = self.name if self.kind in ("version", "source") else f"{self.kind} {self.name}"
        return f"{name} ({', '.join(aliases)})" if (aliases := self.facts.get("aliases")) else name

    @property
    def key(self) -> str:
        """The same for the same thing, wherever in the graph it stands."""
        return f"{self.kind}:{self.name}@{self.hash}"

    def all(self) -> Iterator["Node"]:
        """Each node of the graph once: this one first, and none before what was made from it."""
        order: dict[str, Node] = {}

        def visit(node: Node) -> None:
            order.pop(node.key, None)
            order[node.key] = node
            for each in node.made_from:
                visit(each)

        visit(self)
        return iter(order.values())


def write_stages(folder: Path, model: str) -> None:
    """Write `stages.json`: what dvc.lock says of the stages behind a model and its evaluation, in its own form."""
    known = locked_stages()
    makers = {path: name for name, stage in known.items() for path in _files(stage, "outs")}
    found, queue = {}, [training_stage(model), evaluation_stage(model)]
    while queue:
        name = queue.pop(0)
        if name not in found:
            found[name] = known[name]
            queue += [makers[path] for path in _files(known[name], "deps") if path in makers]
    write_atomic(folder / Path(STAGES).name, json.dumps(found, indent=1) + "\n")


def ancestry(named: str) -> Node:
    """The graph behind the version that `named` names, as `find_version` reads it. Raises UserError as that does."""
    configure_tracking()
    with server_errors():
        return version_ancestry(find_version(named))


def version_ancestry(version: ModelVersion) -> Node:
    """The graph behind a version. Raises UserError for one that this project did not make."""
    return _Graph(recorded_stages(version) or locked_stages()).version(version)


def recorded_stages(version: ModelVersion) -> Stages:
    """What was written down with a version; empty where that was not done, or is gone."""
    return mlflow.artifacts.load_dict(f"runs:/{version.run_id}/{STAGES}") if holds(version.run_id, STAGES) else {}


def _files(stage: Mapping[str, Any], kind: str) -> dict[str, Mapping[str, Any]]:
    """The deps or outs of a stage by path."""
    return {item["path"].rstrip("/"): item for item in stage.get(kind, [])}


class _Graph:
    """Makes the nodes of a graph, each once, from what is known of the stages."""

    def __init__(self, stages: Stages) -> None:
        self.makers = {
            (path, file["md5"]): (name, stage)
            for name, stage in stages.items()
            for path, file in _files(stage, "outs").items()
        }
        self.made: dict[tuple[str, str], Node] = {}
        self.prefix = registered_name("")
        """How the names of models begin that were registered where the version was."""

    def version(self, version: ModelVersion) -> Node:
        """A version, its model's bytes, who decided on it, how they were made and from what."""
        models = {tag.removeprefix(MADE): md5 for tag, md5 in version.tags.items() if tag.startswith(MADE)}
        if len(models) != 1:
            raise UserError(
                f"{version.name} version {version.version}: this project did not make it: a tag {MADE}… is missing"
            )
        ((model, md5),) = models.items()
        path, tags = f"{MODELS}/{model}", version.tags
        if version.name.endswith(f"-{model}"):
            self.prefix = version.name.removesuffix(model)
        created = datetime.fromtimestamp(version.creation_timestamp / 1000, UTC).isoformat(timespec="seconds")
        facts = {
            "aliases": [*version.aliases],
            "review": tags.get(REVIEW, ""),
            **_decided(version, model),
            "registered": created,
            "git commit": _tag(tags, "git.commit") or "none: it was registered outside git",
            "not in git": tags.get(UNCOMMITTED, _dirty(tags)).removeprefix("not in git: "),
            **self.facts(path, md5, find_run(tags.get(TRAINING_RUN))),
            "evaluation": _run_said(tags.get(EVALUATION_RUN, "")),
        }
        used = {tag.removeprefix(USED): md5 for tag, md5 in tags.items() if tag.startswith(USED)}
        used.pop(path, None)
        made_from = self.parents(path, md5) if (path, md5) in self.makers else self.nodes(used)
        return Node("version", f"{version.name}{VERSION}{version.version}", md5, _known(facts), made_from)

    def node(self, path: str, md5: str) -> Node:
        """A folder of data or a model, by the path and the hash that DVC knows it by."""
        if (path, md5) not in self.made:
            self.made[path, md5] = self._node(path, md5)
        return self.made[path, md5]

    def _node(self, path: str, md5: str) -> Node:
        folder, _, name = path.rpartition("/")
        if path == f"{MODELS}/{PUBLISHED}":
            _, stage = self.makers.get((path, md5), ("", {}))
            name = as_hashes(stage).params.get(PUBLISHED, PUBLISHED)
            return Node("weights", name, md5, self.facts(path, md5), _sources_of_weights(name))
        if folder == MODELS and (version := _version_of(f"{self.prefix}{name}", name, md5)):
            return self.version(version)
        return Node(KINDS[folder], name, md5, self.facts(path, md5), self.parents(path, md5))

    def nodes(self, used: Mapping[str, str]) -> tuple[Node, ...]:
        """Those of the paths that are data or models; which code it was says the commit."""
        return tuple(self.node(path, md5) for path, md5 in used.items() if path.rpartition("/")[0] in KINDS)

    def parents(self, path: str, md5: str) -> tuple[Node, ...]:
        """What was taken to make it: the deps of its stage, and what the stage's parameters name."""
        _, stage = self.makers.get((path, md5), ("", {}))
        used = {
            dep: file["md5"]
            for dep, file in _files(stage, "deps").items()
            if not dep.startswith(f"{INBOX}/") or file.get("nfiles", 1) > 1  # more than what keeps its folder in git
        }
        found = [*self.nodes(used)]
        for section, values in as_hashes(stage).params.items():
            if section.endswith(".sources"):
                found += [_source(**({"source": each} if isinstance(each, str) else each)) for each in values]
            elif isinstance(values, dict) and (name := values.get("init_from", SCRATCH)) != SCRATCH:
                found.append(Node("weights", name, "", {}, _sources_of_weights(name)))
        return tuple(found)

    def facts(self, path: str, md5: str, run: Run | None = None) -> dict[str, Any]:
        """How a folder was made: stage, size, parameters, libraries, and what the run says that made it."""
        name, stage = self.makers.get((path, md5), ("", {}))
        file, params = _files(stage, "outs").get(path, {}), as_hashes(stage).params
        run = run or (made_by(name, as_hashes(stage).outs) if name else None)
        record = read_record(run.info.run_id) if run else None
        tags = {f"{PREFIX}.{name}": value for name, value in record.facts.items()} if record else {}
        name = name or (record.stage if record else "")
        parameters = {key.rpartition(".")[2]: value for key, value in params.items() if key not in LIBRARIES}
        parameters.pop("sources", None)  # which are nodes themselves
        section = next(iter(parameters.values())) if len(parameters) == 1 else parameters
        flow_run = _tag(tags, "prefect.flow_run")
        facts = {
            "made by": name and f"stage {name}",
            "size": _size(file),
            "seed": _tag(tags, "seed"),
            "parameters": flatten(section) if isinstance(section, dict) else parameters,
            "libraries": {key: value for key, value in params.items() if key in LIBRARIES},
            "machine": _machine(tags),
            "system": _system(tags),
            "run": _run_said(run.info.run_id if run else ""),
            "run's git commit": _tag(tags, "git.commit"),
            "not in the run's git": _dirty(tags),
            "Prefect run": flow_run and prefect_page(flow_run),
        }
        return _known(facts)


def _known(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if value}


def _tag(tags: Mapping[str, str], name: str) -> str:
    value = tags.get(f"{PREFIX}.{name}", "")
    return "" if value == "none" else value


def _dirty(tags: Mapping[str, str]) -> str:
    return ", ".join(part for part in ("code", *DATA) if _tag(tags, f"git.dirty.{part}") == "true")


def _run_said(run_id: str) -> str:
    return "" if run_id in ("", "none") else f"MLflow run {run_id}"


def _machine(tags: Mapping[str, str]) -> str:
    said = (("machine.cpu", ""), ("machine.cores", " cores"), ("device", ""), ("dtype", ""), ("threads", " threads"))
    found = ((_tag(tags, name).removeprefix("torch."), unit) for name, unit in said)
    return ", ".join(f"{value}{unit}" for value, unit in found if value)


def _system(tags: Mapping[str, str]) -> str:
    said = (("machine.os", ""), ("machine.python", "Python "), ("machine.torch", "torch "))
    return ", ".join(f"{before}{value}" for name, before in said if (value := _tag(tags, name)))


def _size(file: Mapping[str, Any]) -> str:
    if "size" not in file:
        return ""
    size, files = file["size"] / 1e6, file.get("nfiles", 1)
    return f"{size:.3g} MB" + (f" in {files} files" if files > 1 else "") if size >= 0.1 else f"{file['size']} bytes"


def _decided(version: ModelVersion, model: str) -> dict[str, Any]:
    """What was decided on a version, or what its tags say where no decision on it was carried out."""
    ours = version.name == registered_name(model)  # a decision knows no model of another namespace
    decisions = [str(each) for each in history(model) if each.version == str(version.version)] if ours else []
    by_hand = {"review by": version.tags.get(BY, ""), "reason": version.tags.get(REASON, "")}
    return {"decisions": decisions} if decisions else by_hand


def _version_of(name: str, model: str, md5: str) -> ModelVersion | None:
    """The newest version of a model, registered by that name, that has these bytes."""
    client = MlflowClient()
    found = versions(client, name, f"tags.`{MADE}{model}` = '{md5}'")
    if not found:
        return None
    return client.get_model_version(found[0].name, found[0].version)  # a search leaves out its aliases


def _source(source: str, sha256: str | None = None, **facts: Any) -> Node:
    return Node("source", source, sha256 or "", _known(facts))


def _sources_of_weights(name: str) -> tuple[Node, ...]:
    """Where published weights come from; nothing for a folder or a file of one's own."""
    from tasks.data.published import PUBLISHED as KNOWN
    from tasks.data.published import Hub

    match KNOWN.get(name):
        case None:
            return ()
        case Hub(repository, revision, sha256):
            return (Node("source", f"{repository} at {revision}", sha256 or ""),)
        case source:
            return (_source(source.source, source.sha256, files=source.files),)
