"""The tree of a version's origins, back to the pinned sources.

A registration records the entry of dvc.lock of every stage behind the version, as `lineage/stages.json`, and the tree
as text. MLflow's runs, which the tree names, have the parameters and the machine of each stage.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from llm.errors import UserError
from tasks.data.published import PUBLISHED as KNOWN_WEIGHTS
from tasks.registry.record import NONE, holds, read_record, uncommitted_parts
from tasks.registry.server import server_errors
from tasks.registry.store import configure_tracking
from tasks.registry.tracking import made_by
from tasks.registry.tree import Node, as_file
from tasks.registry.versions import STATE, find_version, run_id_of, versions
from tasks.stages.hashes import PREFIX, Hashes, as_hashes
from tasks.stages.names import PUBLISHED, evaluation_stage, training_stage

STAGES, LINEAGE = "lineage/stages.json", "lineage/lineage.txt"
"""Artifacts of a version's run."""
MODELS, INBOX = "models", "data/inbox"
REPLAY = "data/replay"
KINDS = {"data/processed": "dataset", "data/raw": "raw data", INBOX: "inbox", REPLAY: "replay", MODELS: "model"}
SCRATCH = "scratch"

Stages = Mapping[str, Mapping[str, Any]]
"""Stages as dvc.lock has them, by name."""


def recorded_stages(version: ModelVersion) -> Stages:
    """The stages behind a version. Raises UserError if its run has no record of them."""
    if not holds(version.run_id, STAGES):
        raise UserError(f"{version.name} version {version.version}: no record of what it was made from ({STAGES})")
    return mlflow.artifacts.load_dict(f"runs:/{version.run_id}/{STAGES}")


def find_lineage(name: str) -> Node:
    """The tree of the version that `find_version` finds by this name. Raises UserError as that does."""
    configure_tracking()
    with server_errors():
        return lineage_of(find_version(name))


def lineage_of(version: ModelVersion) -> Node:
    """The tree behind a version. Raises UserError for one without a record."""
    return _Builder(version.name.partition("-")[0], recorded_stages(version)).version(version)


def log_lineage(name: str, version: str) -> None:
    """Log the tree behind a new version to its run."""
    client = MlflowClient()
    with server_errors():
        registered = client.get_model_version(name, version)
        run_id = run_id_of(registered)
        if not holds(run_id, LINEAGE):
            client.log_text(run_id, as_file(lineage_of(registered)), LINEAGE)


class _Builder:
    """Makes the nodes of a tree from the recorded stages."""

    def __init__(self, prefix: str, stages: Stages) -> None:
        self.prefix = prefix
        """The namespace of the version and of its base."""
        self.hashes = {name: as_hashes(stage) for name, stage in stages.items()}
        self.makers = {out: name for name, hashes in self.hashes.items() for out in hashes.outs.items()}
        self.file_counts: dict[tuple[str, str], int] = {}
        """The number of files in a dep by its path and MD5."""
        for stage in stages.values():
            for dep in stage.get("deps", []):
                self.file_counts[dep["path"].rstrip("/"), dep["md5"]] = dep.get("nfiles", 1)

    def version(self, version: ModelVersion) -> Node:
        """A version: the bytes of its model, its state, how it was made and from what."""
        model = version.name.partition("-")[2]
        path = f"{MODELS}/{model}"
        md5 = self.hashes[training_stage(model)].outs[path]
        record = read_record(version.run_id)
        recorded = record.facts if record else {}
        facts = {
            "state": version.tags.get(STATE, ""),
            "registered": datetime.fromtimestamp(version.creation_timestamp / 1000, UTC).isoformat(timespec="seconds"),
            "commit": _commit(recorded),
            "not in git": recorded.get("uncommitted", "").removeprefix("not in git: "),
            **self.facts(path, md5),
            "evaluated by": self.run_of(evaluation_stage(model))[0],
        }
        aliases = f" ({', '.join(version.aliases)})" if version.aliases else ""
        return Node(
            kind="version",
            name=f"{version.name} version {version.version}{aliases}",
            hash=md5,
            facts=_with_value(facts),
            made_from=self.parents(path, md5),
        )

    def node(self, path: str, md5: str) -> Node:
        """A folder of data or a model, by its path and DVC's hash."""
        folder, _, name = path.rpartition("/")
        if path == f"{MODELS}/{PUBLISHED}":
            name = self.stage(path, md5).params.get(PUBLISHED, PUBLISHED)
            facts, made_from = self.facts(path, md5), _sources_of_weights(name)
            return Node(kind="weights", name=name, hash=md5, facts=facts, made_from=made_from)
        if folder == MODELS and (version := _version_of(f"{self.prefix}-{name}", md5)):
            return self.version(version)
        facts, made_from = self.facts(path, md5), self.parents(path, md5)
        return Node(kind=KINDS[folder], name=name, hash=md5, facts=facts, made_from=made_from)

    def stage(self, path: str, md5: str) -> Hashes:
        """The stage that made these bytes; an empty one if none is recorded."""
        return self.hashes.get(self.makers.get((path, md5), ""), Hashes({}, {}, {}))

    def parents(self, path: str, md5: str) -> tuple[Node, ...]:
        """The data and models among its stage's deps, and the sources in the stage's parameters."""
        stage = self.stage(path, md5)
        nodes = [self.node(dep, dep_md5) for dep, dep_md5 in stage.deps.items() if self.is_origin(dep, dep_md5)]
        for section, values in stage.params.items():
            if section.endswith(".sources"):
                nodes += [_source(source) for source in values]
            elif isinstance(values, dict) and values.get("init_from", SCRATCH) != SCRATCH:
                name = values["init_from"]
                nodes.append(Node(kind="weights", name=name, hash="", made_from=_sources_of_weights(name)))
        return tuple(nodes)

    def is_origin(self, path: str, md5: str) -> bool:
        """Whether a dep is data or a model, and not an empty folder."""
        folder = path.rpartition("/")[0]
        if folder == INBOX:  # one file keeps the folder in git
            return self.file_counts[path, md5] != 1
        if folder == REPLAY:  # else it is the file in git of those who rehearse nothing
            return (path, md5) in self.makers
        return folder in KINDS

    def run_of(self, stage: str) -> tuple[str, dict[str, str]]:
        """The MLflow run that made a stage's outs, in words, and its facts; both empty if it is not known."""
        run = made_by(stage, self.hashes[stage].outs) if stage in self.hashes else None
        record = read_record(run.info.run_id) if run else None
        return f"MLflow run {run.info.run_id}" if run else "", record.facts if record else {}

    def facts(self, path: str, md5: str) -> dict[str, str]:
        """How a folder was made: the stage, its run and the commit of that run."""
        stage = self.makers.get((path, md5), "")
        run, recorded = self.run_of(stage)
        facts = {
            "made by": stage and f"stage {stage}",
            "run": run,
            "run's commit": _commit(recorded),
            "not in the run's commit": ", ".join(uncommitted_parts(recorded)) if recorded else "",
        }
        return _with_value(facts)


def _with_value(facts: Mapping[str, str]) -> dict[str, str]:
    """The facts that are known."""
    return {name: value for name, value in facts.items() if value}


def _commit(recorded: Mapping[str, str]) -> str:
    commit = recorded.get("git.commit", "")
    return "none: made outside git" if commit == NONE else commit


def _version_of(name: str, md5: str) -> ModelVersion | None:
    """The newest version of a registered model that has these bytes."""
    same = versions(MlflowClient(), name, f"tags.`{PREFIX}.model` = '{md5}'")
    return MlflowClient().get_model_version(name, same[0].version) if same else None  # a search returns no aliases


def _source(source: str | Mapping[str, Any]) -> Node:
    """A pinned source, as params.yaml has it."""
    if isinstance(source, str):
        return Node(kind="source", name=source, hash="")
    facts = {name: str(value) for name, value in source.items() if value and name not in ("source", "sha256")}
    return Node(kind="source", name=source["source"], hash=source.get("sha256") or "", facts=facts)


def _sources_of_weights(name: str) -> tuple[Node, ...]:
    """The pinned source of published weights; none for a folder or file of your own."""
    if name not in KNOWN_WEIGHTS:
        return ()
    weights = KNOWN_WEIGHTS[name]
    package = weights.package
    if package is None:
        return (_source({"source": f"{weights.repository} at {weights.commit}", "sha256": weights.sha256}),)
    return (_source({"source": package.source, "sha256": package.sha256, "files": package.files}),)
