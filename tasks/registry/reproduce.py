"""Make a registered version again, and hold its bytes against the registered ones.

A version's tags say of which commit it was, what it was made from and what came out. All happens in a temporary folder:
a clean git worktree of that commit, with a tracking store and a DVC cache of its own, so that what comes out here never
gets into the caches of this folder. What training read comes back by its hash from DVC's cache or remote; what neither
has is made again, from the pinned sources. The training itself always runs.
"""

import importlib.metadata
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import mlflow
import psutil
from mlflow.exceptions import MlflowException
from packaging.version import Version

from llm.errors import UserError
from tasks.registry.find import is_gone
from tasks.registry.lineage import lineage
from tasks.registry.tracking import made_by, server_errors
from tasks.registry.uncommitted import LEFT_OUT
from tasks.registry.verdict import Verdict, machine_class, sha256, why
from tasks.registry.worktree import Worktree, undisturbed
from tasks.stages import lifeline
from tasks.stages.graph import stop
from tasks.stages.hashes import LOCK, PREFIX, Hashes, as_hashes, locked, locked_stages, md5_of
from tasks.stages.libraries import FILE as LIBRARIES_FILE
from tasks.stages.libraries import LIBRARIES
from tasks.stages.params import training_stage

CACHE = "cache-of-the-project"
STOPS_WITHIN = 8  # seconds that a stage has to say goodbye to its server; its checkpoint is of no use
OF_A_FOLDER = (  # how variables begin that lead a stage back into this folder, or into the run that this process is
    *("DVC_STAGE", "GIT_", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT", "PREFECT__", "PYTHONSAFEPATH"),
)

logger = logging.getLogger(__name__)


class Attempt:
    """A version about to be made again, in a worktree of its commit."""

    def __init__(self, worktree: Worktree) -> None:
        self.version, self.project, self._scratch = worktree.version, worktree.project, worktree.scratch
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

    @contextmanager
    def _repo(self) -> Iterator[Any]:
        """The worktree as DVC sees it, with this folder's cache and remotes as places to read from."""
        from dvc.repo import Repo

        with Repo() as here:
            remotes = {name: dict(remote) for name, remote in here.config["remote"].items()}
            remotes[CACHE] = {"url": here.cache.local_cache_dir}
            core = {name: value for name, value in here.config["core"].items() if name == "remote"}
        config = {
            "core": {**core, "site_cache_dir": str(self._scratch / "dvc")},
            "cache": {"dir": str(self._scratch / "cache")},
            "remote": remotes,
        }
        with Repo(str(self.project), config=config) as repo:
            yield repo

    def _read_graph(self) -> tuple[dict[str, list[str]], dict[str, str], dict[str, str]]:
        """The deps of each stage, without parameters, the stage that makes each out, and the hashes of what no stage
        makes and `dvc add` took in, by their paths."""
        from dvc.exceptions import DvcException

        deps, maker, added = {}, {}, {}
        try:
            with self._repo() as repo:
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
        from llm.device import choose_compute

        compute = choose_compute()
        device = {"device": str(compute.device), "dtype": str(compute.dtype).removeprefix("torch.")}
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
                    if whole and self._restore(dep, whole):
                        continue
                    self._expected[maker] = self._made_by(maker, dep, whole) if whole else Hashes({}, {}, {})
                    need(maker)
            needed.append(stage)

        need(self.stage)
        if needed != [self.stage]:
            for path, md5 in self._added.items():  # which a source may name
                self._restore(path, md5)
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

    def _restore(self, path: str, md5: str) -> bool:
        """Bring back an out by its hash, from the cache or the remote of this folder."""
        from dvc_data.hashfile.hash_info import HashInfo

        target = self.project / path
        with self._repo() as repo, repo.lock:
            places = [CACHE, *([name] if (name := repo.config["core"].get("remote")) else [])]
            for place in places:
                (out,) = repo.find_outs_by_path(str(target))
                out.hash_info, out.obj = HashInfo("md5", md5), None
                try:
                    for objects in out.get_used_objs(remote=place, force=True).values():
                        repo.cloud.pull(objects, remote=place)
                    out.checkout(force=True)
                except Exception as error:  # each kind of remote has its own: the next may have it, or it is made again
                    level = logging.DEBUG if place == CACHE else logging.WARNING
                    logger.log(level, "%s: %s", place, " ".join(str(error).split()))
                if target.exists() and md5_of(target) == md5:
                    logger.info("%s: from %s", path, "DVC's cache" if place == CACHE else f"the remote {place}")
                    return True
        logger.info("%s: its bytes of then (%s) are in no cache or remote here, so they are made again", path, md5)
        return False

    def run(self, stage: str, environment: Mapping[str, str]) -> None:
        """Run one stage in the worktree through `dvc repro`, which dies with this process.

        Raises UserError when it fails.
        """
        command = [sys.executable, "-P", lifeline.__file__, sys.executable, "-m", "dvc", "repro", "--quiet"]
        command += ["--single-item", "--force", "--no-commit", stage]
        self.ran.append(stage)
        # In a group of its own, so that what stops a terminal's or a worker's whole group comes through here alone.
        variables = self._environment() | environment
        dvc = psutil.Popen(command, cwd=self.project, env=variables, stdin=subprocess.DEVNULL, process_group=0)
        try:
            failed = dvc.wait()
        except BaseException:
            with undisturbed():
                stop(dvc, STOPS_WITHIN)
            raise
        if failed:
            reason = f"dvc was killed by signal {-failed}" if failed < 0 else "the reason stands above"
            raise UserError(f"{self.version.uri} can't be made again: stage {stage} failed; {reason}")

    def _environment(self) -> dict[str, str]:
        """This process's variables, but for those that lead a stage back here."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(OF_A_FOLDER)}
        tags = self.version.training.data.tags if self.version.training else {}
        threads = tags.get(f"{PREFIX}.threads")
        return {
            **kept,
            **({"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads} if threads else {}),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "TMPDIR": str(self._scratch),
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": str(self._scratch / "dvc"),
            "OPENLINEAGE_DISABLED": "true",  # what is made here, others have already
            "MLFLOW_TRACKING_URI": f"sqlite:///{self._scratch / 'mlflow.db'}",
        }

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
        made = sha256(self.project / "models" / model, f"models/{model}")
        place = f"{self.version.uri}/artifacts/{model}"
        with server_errors():
            try:
                copy = mlflow.artifacts.download_artifacts(artifact_uri=place, dst_path=str(self._scratch / "served"))
            except (MlflowException, OSError) as error:
                if not is_gone(error):
                    raise
                logger.warning(
                    "%s: the store no longer holds its files; its tags' hashes are those of what came out", place
                )
                return Verdict(self.version.uri, tuple(self.ran), made)
        served = sha256(Path(copy), f"models/{model}")
        differs = {
            path: (served.get(path, "missing"), made.get(path, "missing"))
            for path in sorted(made | served)
            if made.get(path) != served.get(path)
        }
        reasons = ("the files that the registry serves are not those that its tags name",) if differs else ()
        return Verdict(self.version.uri, tuple(self.ran), made, differs, reasons)
