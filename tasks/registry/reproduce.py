"""Make a registered version again, and hold its bytes against the registered ones.

A version's tags say of which commit it was, what it was made from and what came out. All happens in a temporary folder:
a clean git worktree of that commit, with a tracking store and a DVC cache of its own, so that what comes out here never
gets into the caches of this folder. What training read comes back by its hash from DVC's cache or remote; what neither
has is made again, from the pinned sources. The training itself always runs.
"""

import importlib.metadata
import json
import logging
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException
from packaging.version import Version

from llm.errors import UserError
from tasks.registry.facts import lineage
from tasks.registry.find import is_gone
from tasks.registry.tracking import made_by, server_errors
from tasks.registry.uncommitted import LEFT_OUT
from tasks.registry.verdict import Verdict, machine_class, why
from tasks.registry.worktree import Registered, Worktree
from tasks.stages.hashes import LOCK, PREFIX, Hashes, as_hashes, locked, locked_stages, md5_of, sha256_of
from tasks.stages.libraries import FILE as LIBRARIES_FILE
from tasks.stages.libraries import LIBRARIES
from tasks.stages.params import training_stage

logger = logging.getLogger(__name__)


class Attempt:
    """A version about to be made again, in a worktree of its commit."""

    def __init__(self, version: Registered, tree: Worktree) -> None:
        self.version, self.project, self._tree = version, tree.project, tree
        self.stage = training_stage(self.version.model)
        self.ran: list[str] = []
        self._deps, self._maker, self._added = self._read_graph()
        self._expected = {self.stage: self._registered()}
        self._foreseen = self._libraries() + self._machine() + self._left_out()

    def _registered(self) -> Hashes:
        """What is known of the training: the version's tags count before all else."""
        version, path = self.version, f"models/{self.version.model}"
        known = self._made_by(self.stage, path, version.hashes.outs[path])
        run = Hashes.of_tags(version.training.data.tags if version.training else {})
        own = {path for path, stage in self._maker.items() if stage == self.stage}
        outs = {path: md5 for path, md5 in version.hashes.outs.items() if path in own}
        deps = {name: md5 for name, md5 in version.hashes.deps.items() if name in self._deps[self.stage]}
        return Hashes(known.params, known.deps | run.deps | deps, outs)

    def _made_by(self, stage: str, path: str, md5: str) -> Hashes:
        """All that is known of the run of a stage that made these bytes; of an MLflow run only its hashes.

        By what was written down with the version, else by dvc.lock here, else by MLflow; without any, the bytes alone.
        """
        known = [self.version.stages.get(stage)]
        with suppress(UserError):
            known.append(locked(stage))
        for hashes in known:
            if hashes and hashes.outs.get(path) == md5:
                return hashes
        with server_errors():
            run = made_by(stage, {path: md5})
        return Hashes.of_tags(run.data.tags) if run else Hashes({}, {}, {path: md5})

    def _read_graph(self) -> tuple[dict[str, list[str]], dict[str, str], dict[str, str]]:
        """The deps of each stage, without parameters, the stage that makes each out, and the hashes of what no stage
        makes and `dvc add` took in, by their paths."""
        from dvc.exceptions import DvcException

        deps, maker, added = {}, {}, {}
        try:
            with self._tree.repo() as repo:
                for stage in repo.index.stages:
                    if stage.is_data_source:
                        outs = {Path(out.fs_path).relative_to(self.project): out.hash_info.value for out in stage.outs}
                        added |= {path.as_posix(): md5 for path, md5 in outs.items() if md5}
                        continue
                    deps[stage.name] = [dep.def_path.rstrip("/") for dep in stage.deps if dep not in stage.params]
                    maker |= {out.def_path.rstrip("/"): stage.name for out in stage.outs}
        except DvcException as error:
            raise UserError(f"commit {self.version.commit}: {' '.join(str(error).split())}") from None
        if self.stage not in deps:
            raise UserError(f"commit {self.version.commit}: dvc.yaml has no stage {self.stage}")
        return deps, maker, added

    def _libraries(self) -> list[str]:
        """How the libraries that compute differ from the locked ones; the worktree then names those that are here."""
        file = self.project / LIBRARIES_FILE
        locked: dict[str, str] = json.loads(file.read_text()) if file.exists() else {}
        here = {}
        for name in locked:
            try:
                here[name] = Version(importlib.metadata.version(name)).public
            except importlib.metadata.PackageNotFoundError:
                here[name] = "missing"
        if locked != here:  # a stage refuses to run where it names others
            file.write_text(json.dumps(here, indent=2) + "\n")
        known = {name: value for name, value in self._expected[self.stage].params.items() if name in LIBRARIES}
        return [
            f"library {name} was {then}, here it is {here[name]}"
            for name, then in (locked | known).items()
            if name in here and here[name] != then
        ]

    def _machine(self) -> list[str]:
        """How this class of machine differs from the one that trained; the number of threads is made the same."""
        tags = self.version.training.data.tags if self.version.training else {}
        then = machine_class(tags)
        if not then:
            logger.info("on which machine %s was trained is not known here", self.version.uri)
            return []
        from llm.device import EAGER, choose_compute
        from llm.model.int8 import has_fast_int8
        from llm.training.compiled import can_learn_in_c, compiled_by, cpp_compiler, described

        compute = choose_compute()
        device = {"device": str(compute.device), "dtype": str(compute.dtype).removeprefix("torch.")}
        if "blocks" in then:
            asked = replace(compute, blocks=then["blocks"])  # by parameters, which are the same here
            compiler = cpp_compiler() if asked.compiled else None
            in_c, fast = asked.in_c if can_learn_in_c(compute) else [], has_fast_int8(compute.device)
            in_int8 = ["logits"] * (fast and asked.logits_in_int8 and "loss" in in_c)
            in_int8 += ["products"] * (fast and asked.in_int8 and compiler is not None)
            device["blocks"] = described(compiled_by(compiler) if compiler else EAGER, in_c, in_int8)
        now = machine_class(lineage(None) | {f"{PREFIX}.{name}": value for name, value in device.items()})
        return [
            f"{name} was {then[name]}, here it is {now[name]}"
            for name in then
            if now.get(name, then[name]) != then[name]
        ]

    def _left_out(self) -> list[str]:
        """What no commit holds and nobody kept, so that the worktree lacks it."""
        said = self.version.uncommitted.removeprefix("not in git: ").partition("; ")[0]
        files = said.removeprefix(f"{LEFT_OUT}, ")
        return [f"not in git, and too large or binary to be kept with it: {files}"] if files != said else []

    def foreseen(self) -> list[str]:
        """Why other bytes are to be expected, before anything runs: other libraries, another class of machine, files
        that nobody kept."""
        return self._foreseen

    def gather(self) -> list[str]:
        """Bring back what the training read, by its hash. The stages that must run, in order; the training is last."""
        needed: list[str] = []

        def need(stage: str) -> None:
            for dep in self._deps[stage]:
                maker = next((self._maker[out] for out in self._maker if Path(dep).is_relative_to(out)), None)
                md5 = self._expected[stage].deps.get(dep)
                if maker is None:
                    self._take_from_here(dep, md5)
                elif maker not in needed:
                    whole = md5 if dep in self._maker else None
                    if whole and self._tree.restore(dep, whole):
                        continue
                    self._expected[maker] = self._made_by(maker, dep, whole) if whole else Hashes({}, {}, {})
                    need(maker)
            needed.append(stage)

        need(self.stage)
        if needed != [self.stage]:
            for path, md5 in self._added.items():  # which a source may name
                self._tree.restore(path, md5)
        return needed

    def _take_from_here(self, dep: str, md5: str | None) -> None:
        """What no stage makes and the commit doesn't have as it was, such as an inbox: from this folder, if it does."""
        there, here = self.project / dep, Path(dep)
        if md5 is None or not here.exists() or (there.exists() and md5_of(there) == md5) or md5_of(here) != md5:
            return
        if here.is_dir():
            shutil.rmtree(there, ignore_errors=True)
            shutil.copytree(here, there)
        else:
            there.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(here, there)
        logger.info("%s: not in the commit, but here as it was", dep)

    def run(self, stage: str, environment: Mapping[str, str]) -> None:
        """Run one stage in the worktree, as `Worktree.run`, with as many threads as then.

        Raises UserError when it fails.
        """
        self.ran.append(stage)
        tags = self.version.training.data.tags if self.version.training else {}
        try:
            self._tree.run(stage, environment, tags.get(f"{PREFIX}.threads"))
        except UserError as error:
            raise UserError(f"{self.version.uri} can't be made again: {error}") from None

    def verdict(self) -> Verdict | None:
        """Whether the stage that ran last made other bytes; after the training, also that it made the same.

        None where there is more to run.
        """
        stage = self.ran[-1]
        expected = self._expected[stage]
        made = {path: md5_of(self.project / path) for path in expected.outs if (self.project / path).exists()}
        differs = {
            path: (md5, made.get(path, "missing")) for path, md5 in expected.outs.items() if made.get(path) != md5
        }
        if differs:
            now = as_hashes(locked_stages(self.project / LOCK)[stage])
            known = why(expected, now) or self._foreseen
            unknown = (
                "of an unknown reason: deps, parameters, libraries and machine are as far as they are recorded as then"
            )
            reasons = tuple(known) or (unknown,)
            return Verdict(self.version.uri, tuple(self.ran), differs=differs, reasons=reasons)
        return self._identical() if stage == self.stage else None

    def _identical(self) -> Verdict:
        """The bytes are those of the tags; are they those that the registry serves, too?"""
        model = self.version.model
        made = sha256_of(self.project / "models" / model, f"models/{model}")
        place = f"{self.version.uri}/artifacts/{model}"
        with server_errors():
            try:
                copy = mlflow.artifacts.download_artifacts(place, dst_path=str(self._tree.scratch / "served"))
            except (MlflowException, OSError) as error:
                if not is_gone(error):
                    raise
                logger.warning(
                    "%s: the store no longer holds its files; its tags' hashes are those of what came out", place
                )
                return Verdict(self.version.uri, tuple(self.ran), made)
        served = sha256_of(Path(copy), f"models/{model}")
        differs = {
            path: (served.get(path, "missing"), made.get(path, "missing"))
            for path in sorted(made | served)
            if made.get(path) != served.get(path)
        }
        reasons = ("the files that the registry serves are not those that its tags name",) if differs else ()
        return Verdict(self.version.uri, tuple(self.ran), made, differs, reasons)
