"""A finished project on a Prefect server, a worker and an MLflow server of its own, and what a person does there."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import psutil
from mlflow import MlflowClient

from tests.console import Console
from tests.projects import change_params, environment, free_ports, git
from tests.real_servers import OPENS_STORE, Process, Runs, wait_for

MODELS = ("foundation", "classifier", "assistant")
ENDS = {"Completed", "Failed", "Crashed", "Cancelled"}


@dataclass(frozen=True)
class Standing:
    """What the registry has of a model."""

    aliases: dict[str, str]
    said: dict[str, str | None]
    """The tag of each version."""


class World:
    """The project, its servers, and a console in it; runs leave their names and the states of all below them."""

    def __init__(self, folder: Path) -> None:
        """`folder` is the project's; all that was made in it is committed."""
        self.folder = folder
        git(folder, "add", "--all")
        git(folder, "commit", "--quiet", "--allow-empty", "--message", "The models")
        prefect, mlflow = free_ports(2)
        self.store, api = f"http://127.0.0.1:{mlflow}", f"http://127.0.0.1:{prefect}/api"
        someone = {
            f"GIT_{who}_{what}": "someone@localhost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
        }
        soon = {"PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "1", "PREFECT_WORKER_QUERY_SECONDS": "1"}
        lean = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "PREFECT_UI_ENABLED": "0"}  # nobody looks at their pages
        here = environment(COLUMNS="160", MLFLOW_HTTP_REQUEST_MAX_RETRIES="2", **someone, **soon, **lean)
        self.exported = {
            "MLFLOW_TRACKING_URI": self.store,
            "THREESTAGE_NAMESPACE": "threestage",
            "PREFECT_API_URL": api,
        }
        shown = {str(folder): "~/threestage", str(prefect): "4200", str(mlflow): "5000"}
        self.console = Console(folder, here, shown)
        at_home = "--host 127.0.0.1 --port"
        self.mlflow = Process(
            f"mlflow server --backend-store-uri sqlite:///mlflow.db --workers 1 {at_home} {mlflow}",
            folder, here, f"{self.store}{OPENS_STORE}",
        )  # fmt: skip
        self.prefect = Process(f"prefect server start {at_home} {prefect}", folder, here, f"{api}/health")
        self.worker = Process("prefect worker start --pool local", folder, here | self.exported)
        self.runs = Runs(api)
        self.trees: dict[str, dict[str, str]] = {}
        self.names: dict[str, str] = {}

    def close(self) -> None:
        """End what runs."""
        for process in (self.worker, self.prefect, self.mlflow):
            process.kill()

    def registry(self) -> dict[str, Standing]:
        """What the registry has of each model now."""
        client, found = MlflowClient(self.store, self.store), {}
        for model in MODELS:
            name = f"threestage-{model}"
            aliases = {alias: str(version) for alias, version in client.get_registered_model(name).aliases.items()}
            versions = sorted(client.search_model_versions(f"name = '{name}'"), key=lambda each: int(each.version))
            tags = {str(each.version): dict(each.tags).get("threestage.state") for each in versions}
            found[model] = Standing(aliases, tags)
        return found

    def change(self, changes: dict, message: str) -> None:
        """Change params.yaml and commit that."""
        change_params(self.folder, changes)
        self.console.type("git diff --unified=0 params.yaml", keep=r"^[-+] .*: \S")
        self.console.type(f'git commit --quiet --message "{message}" params.yaml')

    def deployment_run(self, name: str, *parameters: str) -> UUID:
        """Start a deployment's run by hand."""
        options = "".join(f" --param '{each}'" for each in parameters)
        said = self.console.type(f"prefect deployment run {name}{options}", keep="Creating|Created")
        return UUID(re.search(r"UUID: (\S+)", said)[1])

    def ended(self, run: UUID, scene: str, *names: str) -> str:
        """The state in which a run ended, and all below it; or those of these names, where a server may lack others."""

        def there() -> dict[str, str] | bool:
            found = self.runs.tree(run)
            have = {found.get(name) for name in names or found}
            return have <= ENDS and "Running" not in found.values() and found

        state = self.runs.ended(run)
        self.trees[scene] = wait_for(there)
        self.names[scene] = self.runs.name(run)
        return state

    def checkpoint(self) -> int:
        """The step of the newest checkpoint of the foundation; 0 without one."""
        found = self.folder.glob(".threestage/stages/pretrain/*/step-*.safetensors")
        return max((int(path.stem.removeprefix("step-")) for path in found), default=0)

    def hold_after(self, step: int) -> psutil.Process:
        """Stop the foundation's training for a while as soon as it has a later checkpoint."""
        wait_for(lambda: self.checkpoint() > step, every=0.02)
        stage = psutil.Process(int((self.folder / ".threestage/stages/pretrain/lock").read_text()))
        stage.suspend()
        return stage

    def steps_of(self, steps: int) -> list[list[int]]:
        """Of each MLflow run that trained the foundation for so many steps, those of which it has a loss."""
        client = MlflowClient(self.store, self.store)
        ours = f"tags.`threestage.stage` = 'pretrain' AND params.steps = '{steps}'"
        runs = client.search_runs([client.get_experiment_by_name("threestage").experiment_id], ours)
        losses = (client.get_metric_history(run.info.run_id, "train_loss") for run in runs)
        return [sorted(metric.step for metric in each) for each in losses]

    def sha256(self, folder: Path | None = None) -> str:
        """Of the foundation's weights."""
        return hashlib.sha256(
            ((folder or self.folder) / "models/foundation/model.safetensors").read_bytes()
        ).hexdigest()
