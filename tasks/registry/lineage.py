"""The tree behind a registered version: what it was made from, back to the pinned sources.

A registration records what dvc.lock says of every stage behind the version, as `lineage/stages.json`. MLflow's runs say
on which machine and from which commit each stage ran; the registry says who decided what.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from llm.errors import UserError
from tasks.registry.decide import BY, WHY, history
from tasks.registry.find import find_version
from tasks.registry.listing import versions
from tasks.registry.markup import printable
from tasks.registry.record import NONE, holds, read_record, uncommitted_parts
from tasks.registry.register import STATE
from tasks.registry.tracking import configure_tracking, made_by, namespace, server_errors
from tasks.stages.hashes import PREFIX, Hashes, as_hashes, flatten
from tasks.stages.libraries import LIBRARIES
from tasks.stages.params import PUBLISHED, evaluation_stage, training_stage
from tasks.stages.server import prefect_page

if TYPE_CHECKING:
    from rich.tree import Tree

STAGES, LINEAGE = "lineage/stages.json", "lineage/lineage.json"  # artifacts of a version's run
MODELS, INBOX = "models", "data/inbox"
KINDS = {"data/processed": "dataset", "data/raw": "raw data", INBOX: "inbox", MODELS: "model"}
SCRATCH = "scratch"
HASH = 12  # characters of one that people see
EVERYWHERE = ("machine", "run's commit", "not in the run's commit")  # facts that are mostly the same for all nodes
UNSAFE = re.compile(r"[^\w .,:@/()+=-]")  # characters with a meaning in a label of Mermaid's

Stages = Mapping[str, Mapping[str, Any]]
"""Stages as dvc.lock has them, by name."""


@dataclass(frozen=True)
class Node:
    """A version, or something that it was made from."""

    kind: str
    """`version`, `model`, `weights`, `dataset`, `raw data`, `inbox` or `source`."""
    name: str
    hash: str
    """DVC's MD5 of its bytes; the SHA-256 of a source. Empty where it is not recorded."""
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
        """The same for the same thing, wherever it stands in the tree."""
        return f"{self.kind}:{self.name}@{self.hash}"

    def all(self) -> Iterator["Node"]:
        """Each node once, this one first, and each before what it was made from."""
        order: dict[str, Node] = {}

        def visit(node: Node) -> None:
            order.pop(node.key, None)
            order[node.key] = node
            for each in node.made_from:
                visit(each)

        visit(self)
        return iter(order.values())


def recorded_stages(version: ModelVersion) -> Stages:
    """The stages behind a version. Raises UserError where its run has no record of them."""
    if not holds(version.run_id, STAGES):
        raise UserError(f"{version.name} version {version.version}: no record of what it was made from ({STAGES})")
    return mlflow.artifacts.load_dict(f"runs:/{version.run_id}/{STAGES}")


def find_lineage(named: str) -> Node:
    """The tree behind the version that `named` names, as `find_version` reads it. Raises UserError as that does."""
    configure_tracking()
    with server_errors():
        return lineage_of(find_version(named))


def lineage_of(version: ModelVersion) -> Node:
    """The tree behind a version. Raises UserError for one without a record."""
    return _Builder(version.name.partition("-")[0], recorded_stages(version)).version(version)


def log_lineage(name: str, version: str) -> None:
    """Log the tree behind a new version to its run, as JSON and as a Mermaid flow chart in Markdown."""
    client = MlflowClient()
    with server_errors():
        registered = client.get_model_version(name, version)
        if not holds(registered.run_id, LINEAGE):
            root = lineage_of(registered)
            client.log_text(registered.run_id, f"```mermaid\n{as_mermaid(root)}```\n", "lineage/lineage.md")
            client.log_text(registered.run_id, json.dumps(as_json(root), indent=2) + "\n", LINEAGE)


class _Builder:
    """Makes the nodes of a tree, each once, from the recorded stages."""

    def __init__(self, prefix: str, stages: Stages) -> None:
        self.prefix = prefix
        """The namespace of the version: its base is looked for there."""
        self.made: dict[tuple[str, str], Node] = {}
        self.hashes = {name: as_hashes(stage) for name, stage in stages.items()}
        self.makers = {out: name for name, hashes in self.hashes.items() for out in hashes.outs.items()}
        items = [item for stage in stages.values() for item in (*stage.get("deps", []), *stage.get("outs", []))]
        self.items = {(item["path"].rstrip("/"), item["md5"]): item for item in items}

    def version(self, version: ModelVersion) -> Node:
        """A version: its model's bytes, the decisions on it, how it was made and from what."""
        model = version.name.partition("-")[2]
        path, md5 = f"{MODELS}/{model}", self.hashes[training_stage(model)].outs[f"{MODELS}/{model}"]
        record = read_record(version.run_id)
        recorded = record.facts if record else {}
        facts = {
            "aliases": [*version.aliases],
            **_decided(version, model),
            "registered": datetime.fromtimestamp(version.creation_timestamp / 1000, UTC).isoformat(timespec="seconds"),
            "commit": _commit(recorded),
            "not in git": recorded.get("uncommitted", "").removeprefix("not in git: "),
            **self.facts(path, md5),
            "evaluated by": self.run_of(evaluation_stage(model))[0],
        }
        name = f"{version.name} version {version.version}"
        return Node("version", name, md5, _known(facts), self.parents(path, md5))

    def node(self, path: str, md5: str) -> Node:
        """A folder of data or a model, by its path and DVC's hash."""
        if (path, md5) not in self.made:
            self.made[path, md5] = self._node(path, md5)
        return self.made[path, md5]

    def _node(self, path: str, md5: str) -> Node:
        folder, _, name = path.rpartition("/")
        if path == f"{MODELS}/{PUBLISHED}":
            name = self.stage(path, md5).params.get(PUBLISHED, PUBLISHED)
            return Node("weights", name, md5, self.facts(path, md5), _sources_of_weights(name))
        if folder == MODELS and (version := _version_of(f"{self.prefix}-{name}", md5)):
            return self.version(version)
        return Node(KINDS[folder], name, md5, self.facts(path, md5), self.parents(path, md5))

    def stage(self, path: str, md5: str) -> Hashes:
        """The stage that made these bytes; one without anything where none is recorded."""
        return self.hashes.get(self.makers.get((path, md5), ""), Hashes({}, {}, {}))

    def parents(self, path: str, md5: str) -> tuple[Node, ...]:
        """What it was made from: data and models among the deps of its stage, and the sources in its parameters."""
        stage, found = self.stage(path, md5), []
        for dep in stage.deps.items():
            folder = dep[0].rpartition("/")[0]
            empty = folder == INBOX and self.items[dep].get("nfiles", 1) == 1  # the file that keeps the folder in git
            if folder in KINDS and not empty:
                found.append(self.node(*dep))
        for section, values in stage.params.items():
            if section.endswith(".sources"):
                found += [_source(**({"source": each} if isinstance(each, str) else each)) for each in values]
            elif isinstance(values, dict) and (name := values.get("init_from", SCRATCH)) != SCRATCH:
                found.append(Node("weights", name, "", {}, _sources_of_weights(name)))
        return tuple(found)

    def run_of(self, stage: str) -> tuple[str, dict[str, str]]:
        """The MLflow run that made the outs of a stage, in words, and its facts; both empty where it is not known."""
        run = made_by(stage, self.hashes[stage].outs) if stage in self.hashes else None
        if run is None:
            return "", {}
        record = read_record(run.info.run_id)
        return f"MLflow run {run.info.run_id}", record.facts if record else {}

    def facts(self, path: str, md5: str) -> dict[str, Any]:
        """How a folder was made: stage, size, parameters, libraries, and what its run recorded."""
        name, params = self.makers.get((path, md5), ""), self.stage(path, md5).params
        run, recorded = self.run_of(name)
        chosen = {key: value for key, value in params.items() if key not in LIBRARIES and not key.endswith(".sources")}
        section = next(iter(chosen.values())) if len(chosen) == 1 else chosen
        machine = {"machine.cpu": "{}", "machine.cores": "{} cores", "device": "{}", "dtype": "{}"}
        machine |= {"threads": "{} threads", "machine.os": "{}", "machine.python": "Python {}"}
        flow_run = recorded.get("prefect.flow_run", NONE)
        return _known(
            {
                "made by": name and f"stage {name}",
                "size": _size(self.items.get((path, md5), {})),
                "seed": recorded.get("seed", ""),
                "parameters": flatten(section) if isinstance(section, dict) else chosen,
                "libraries": {key: value for key, value in params.items() if key in LIBRARIES},
                "machine": ", ".join(form.format(recorded[key]) for key, form in machine.items() if key in recorded),
                "run": run,
                "run's commit": _commit(recorded),
                "not in the run's commit": ", ".join(uncommitted_parts(recorded)) if recorded else "",
                "Prefect run": "" if flow_run == NONE else prefect_page(flow_run),
            }
        )


def _commit(recorded: Mapping[str, str]) -> str:
    commit = recorded.get("git.commit", "")
    return "none: made outside git" if commit == NONE else commit


def _known(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if value}


def _size(item: Mapping[str, Any]) -> str:
    if "size" not in item:
        return ""
    size, files = item["size"] / 1e6, item.get("nfiles", 1)
    return f"{size:.3g} MB" + (f" in {files} files" if files > 1 else "") if size >= 0.1 else f"{item['size']} bytes"


def _decided(version: ModelVersion, model: str) -> dict[str, Any]:
    """The decisions on a version, or what its tags say where none was carried out."""
    tags = version.tags
    said = {"review": tags.get(STATE, ""), "review by": tags.get(BY, ""), "reason": tags.get(WHY, "")}
    ours = version.name == f"{namespace()}-{model}"  # the history is of this namespace's models
    decisions = [str(each) for each in history(model) if each.version == str(version.version)] if ours else []
    return {"review": said["review"], "decisions": decisions} if decisions else said


def _version_of(name: str, md5: str) -> ModelVersion | None:
    """The newest version of a registered model that has these bytes."""
    client = MlflowClient()
    found = versions(client, name, f"tags.`{PREFIX}.model` = '{md5}'")
    return client.get_model_version(name, found[0].version) if found else None  # a search leaves out its aliases


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
            return (_source(f"{repository} at {revision}", sha256),)
        case source:
            return (_source(source.source, source.sha256, files=source.files),)


def as_json(root: Node) -> dict[str, Any]:
    """The tree for programs: its nodes, the version first, each with the ids of what it was made from."""
    nodes = [
        {"id": node.key, "kind": node.kind, "name": node.name, "hash": node.hash, "facts": dict(node.facts)}
        | {"made_from": [each.key for each in node.made_from]}
        for node in root.all()
    ]
    return {"root": root.key, "nodes": nodes}


def as_mermaid(root: Node) -> str:
    """The tree as a flow chart in Mermaid's language, from the sources on the left to the version on the right."""
    numbers = {node.key: f"n{number}" for number, node in enumerate(root.all())}
    lines = ["flowchart LR"]
    for node in root.all():
        facts, made = node.facts, node.kind in ("version", "model")
        commit = facts.get("commit", facts.get("run's commit", "")) if made else ""
        said = [node.title, node.hash[:HASH], commit and f"commit {commit[:HASH]}"]
        said += [f"not in git: {facts['not in git']}"] if "not in git" in facts else []
        said += facts.get("decisions", [])[-1:]
        label = "<br>".join(UNSAFE.sub(lambda found: f"#{ord(found[0])};", printable(each)) for each in said if each)
        lines.append(f'  {numbers[node.key]}["{label}"]')
    for node in root.all():
        lines += [f"  {numbers[each.key]} --> {numbers[node.key]}" for each in node.made_from]
    return "\n".join(lines) + "\n"


def as_text(root: Node) -> "Tree":
    """The tree for the terminal. A shared node has its facts once; what is as for the version is not repeated."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text
    from rich.tree import Tree

    shown: set[str] = set()

    def label(node: Node) -> Group:
        title = Text.assemble((node.title, "bold"), "  ", (node.hash[:HASH], "cyan"))
        if node.key in shown:
            return Group(title.append("  as above", style="dim"))
        facts = Table.grid(padding=(0, 2, 0, 0))
        for name, value in node.facts.items():
            repeated = node is not root and name in EVERYWHERE and root.facts.get(name, "").startswith(value)
            if name != "aliases" and not repeated:
                style = "red" if "not in" in name else ""
                facts.add_row(Text(f"  {name}", style="dim"), Text(printable(_line(value)), style=style))
        return Group(title, *([facts] if facts.row_count else []))

    def grow(tree: Tree, node: Node) -> Tree:
        first = node.key not in shown
        shown.add(node.key)
        for each in node.made_from if first else ():
            grow(tree.add(label(each)), each)
        return tree

    return grow(Tree(label(root), guide_style="dim"), root)


def _line(value: Any) -> str:
    """A fact in one line."""
    match value:
        case Mapping():
            said = {name: each if isinstance(each, str) else json.dumps(each) for name, each in value.items()}
            return ", ".join(f"{name} {each}" for name, each in said.items())
        case list():
            return "; ".join(map(str, value))
        case _:
            return str(value)
