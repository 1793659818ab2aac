"""How a model becomes champion, told by what was typed and printed: `python -m tests.transcript` writes its page.

On a real Prefect server, worker and MLflow server, with a project of small models. tests/test_transcript.py plays the
same story and looks at what became of it.
"""

import json
import re
import shutil
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

from mlflow import MlflowClient

from tasks.review.gates import Gate
from tasks.review.page import summary
from tests.projects import ROOT, change_params, environment, git, make_project, run
from tests.real_servers import Process, wait_for
from tests.world import MODELS, Standing, World

PAGE = ROOT / "docs/transcript.md"
WORDS = Path(__file__).with_name("transcript_words.md")
DAILY, REVIEW = "retrain/daily", "review/review"
STEPS = 200  # of the training in which things die; all of them do in its first steps
GATES = {"at_least": {"f1": 0.5}, "at_most": {}, "no_loss": ["f1"]}
LONGER = {
    "foundation": {"train": {"steps": STEPS}},
    "applications": {"classifier": {"train": {"steps": 1, "ngram_buckets": 0, "certain": None}}},  # worse
}
MAILS = """\
label,subject,body
ham,Lunch on Monday,"Shall we have lunch at the new place on the corner, say at half past twelve?"
ham,Minutes of today,"Attached are the minutes of this morning's meeting. Tell me what I got wrong."
ham,Your bike,"Your bike is repaired and can be fetched until six. The brakes are new."
spam,Parcel on hold,"Your parcel is on hold. Pay the fee of 1.99 within 24 hours at the link below."
spam,You were chosen,"Congratulations, you were chosen! Claim your voucher before midnight, it is free."
"""


class Story(World):
    """The scenes, in order; what the registry holds after each is in `standings`, SHA-256 of weights in `weights`.

    `trainings` has the steps of which MLflow knows a loss, of each of its runs that trained for STEPS.
    """

    def __init__(self, folder: Path) -> None:
        """`folder` is a finished project's, which the story changes."""
        super().__init__(folder)
        self.words = dict(re.findall(r"^<!-- (\w+) -->\n(.*?)(?=^<!-- |\Z)", WORDS.read_text(), re.M | re.S))
        self.standings: dict[str, dict[str, Standing]] = {}
        self.weights: dict[str, str] = {}
        self.trainings: list[list[int]] = []
        self.slot_kept = False
        self.seconds: dict[str, float] = {}

    def play(self) -> None:
        """All scenes; the servers end with them."""
        alive = (self.deploy, self.schedule, self.approve)
        dying = (self.servers_die, self.worker_dies)
        try:
            for scene in (*alive, *dying, self.go_on, self.refuse, self.reject, self.roll_back):
                began = time.monotonic()
                self.tell(scene.__name__)
                scene()
                if scene not in dying:  # the registry is away
                    self.standings[scene.__name__] = self.registry()
                self.seconds[scene.__name__] = time.monotonic() - began
        finally:
            self.close()

    def tell(self, name: str) -> None:
        """The words of that name in tests/transcript_words.md."""
        self.console.say(self.words[name])

    def deploy(self) -> None:
        """Servers, deployments, a worker; and a first champion of each model."""
        console = self.console
        change_params(self.folder, lambda values: values["applications"]["classifier"].update(review=GATES))
        git(self.folder, "commit", "--quiet", "--all", "--message", "Results and gates")
        self.prefect.start()
        console.type("python -m flows", keep="up to date|version")
        self.mlflow.start()
        for server in (self.mlflow, self.prefect):
            console.show(f"{' '.join(server.command[2:])} &")
        self.tell("exports")
        for name, value in self.exported.items():
            console.show(f"export {name}={value}")
        console.variables |= self.exported
        self.prefect.wait_until_ready()
        console.type("prefect work-pool create local --type process", keep="Created")
        console.type("prefect --no-prompt deploy --all", keep="successfully created")
        self.worker.start()
        console.show(f"{' '.join(self.worker.command[2:])} &")
        self.mlflow.wait_until_ready()
        self.tell("first_champions")
        body = r'"{\"name\": \"threestage-$model\", \"alias\": \"champion\", \"version\": \"1\"}"'
        address = "$MLFLOW_TRACKING_URI/ajax-api/2.0/mlflow/registered-models/alias"
        console.type(f"for model in {' '.join(MODELS)}; do\n  curl --silent --json {body} \\\n    {address}\ndone")

    def schedule(self) -> None:
        """New mail; the schedule fires; a challenger."""
        console = self.console
        console.type(f"cat > data/inbox/emails/monday.csv <<'END'\n{MAILS}END")
        self.tell("fires")
        run = self._scheduled()
        self.ended(run, "schedule")
        self.tell("daily_page")
        console.quote(self.runs.page(run, "retrain"))

    def _scheduled(self) -> UUID:
        """A run that the schedule started: set for in a while, and again where that was over before the server knew."""
        for seconds in (10, 30, 90, 270):
            at = datetime.now(UTC) + timedelta(seconds=seconds)
            when = f"--interval 86400 --anchor-date {at:%Y-%m-%dT%H:%M:%S}Z"
            line = f"prefect deployment schedule create {DAILY} {when} --replace --accept-yes"
            printed = self.console.run(line)

            def planned(at: datetime = at) -> list[UUID] | bool:
                near = [run for run in self.runs.of(DAILY) if abs(run.expected_start_time - at) < timedelta(seconds=2)]
                return [run.id for run in near] or datetime.now(UTC) > at + timedelta(seconds=5)

            if isinstance(found := wait_for(planned), list):
                self.console.show(line, printed)
                return found[0]
        raise AssertionError("the server planned no run of the schedule in time")

    def approve(self) -> None:
        """The form waits, and a person says yes in it."""
        run = self.deployment_run(REVIEW, 'models=["classifier"]', "wait_minutes=60")
        wait_for(lambda: self.runs.state(run) == "Paused")
        self.tell("review_page")
        self.console.quote(self.page_of("classifier", "2"), keep=r"^(# |\*\*|## Gates|\|)")
        self.tell("form")
        said = json.dumps({"run_input": {"decision": "approve", "reason": "it reads well", "by": "reviewer-1"}})
        line = (
            f"curl --silent --json '{said}' $PREFECT_API_URL/flow_runs/{run}/resume | grep -o '\"status\":\"[A-Z]*\"'"
        )
        # a busy server may refuse, as a person would see
        printed = wait_for(lambda: "ACCEPT" in (answer := self.console.run(line, check=False)) and answer)
        self.console.show(line, printed)
        self.ended(run, "approve")

    def page_of(self, model: str, version: str) -> str:
        """The verdict and the gates of a version's review."""
        client = MlflowClient(self.store, self.store)
        there = client.get_model_version(f"threestage-{model}", version)
        with tempfile.TemporaryDirectory() as folder:
            found = json.loads(Path(client.download_artifacts(there.run_id, "review/gates.json", folder)).read_text())
        gates = [Gate(**each) for each in found["gates"]]
        return summary(there.name, version, found["champion"], found["verdict"], gates)

    def servers_die(self) -> None:
        """SIGKILL of the Prefect server, which is started again, and of the MLflow server, which is not for a while."""
        self.change(LONGER, "A longer training of the foundation, a shorter one of the classifier")
        self.beside = self._undisturbed()
        self.weights["before"] = self.sha256()
        self.dying = self.deployment_run(DAILY, 'decide="nobody"')
        stage = self.hold_after(0)
        self.prefect.kill()
        self.console.show("kill -9 $PREFECT_SERVER")
        stage.resume()
        stage = self.hold_after(self.checkpoint())  # it trains on without a server
        self.prefect.start()
        self.console.show(f"{' '.join(self.prefect.command[2:])} &")
        self.prefect.wait_until_ready()
        state = self.runs.client.read_flow_run(self.dying).state
        self.names["prefect_is_back"] = state.name
        slot = state.state_details.deployment_concurrency_lease_id
        self.slot_kept = self.runs.client.renew_concurrency_lease(slot, 300).is_success
        self.tell("mlflow_dies")
        self.mlflow.kill()
        self.console.show("kill -9 $MLFLOW_SERVER")
        stage.resume()

    def _undisturbed(self) -> Process:
        """The same training in a copy of the project, for names of its own on the same servers."""
        folder = self.folder.with_name("undisturbed")
        left_out = shutil.ignore_patterns("mlflow.db*", "mlartifacts", ".prefect", ".threestage", "*.log")
        shutil.copytree(self.folder, folder, symlinks=True, ignore=left_out)
        own = self.exported | {"THREESTAGE_NAMESPACE": "undisturbed"}
        return Process("dvc repro --single-item pretrain", folder, environment(**own))

    def worker_dies(self) -> None:
        """SIGKILL of the worker, in the same training."""
        self.hold_after(self.checkpoint())  # it trains on without MLflow, and is held until it is killed, too
        self.worker.kill()
        self.console.show("kill -9 $WORKER")
        self.ended(self.dying, "worker_dies", "pretrain", "pretrain-scratch")
        self.weights["worker_dies"] = self.sha256()

    def go_on(self) -> None:
        """The next run finishes what that one began."""
        for process in (self.mlflow, self.worker):
            process.start()
            self.console.show(f"{' '.join(process.command[2:])} &")
        self.mlflow.wait_until_ready()
        self.beside.start()
        run = self.deployment_run(DAILY, 'decide="nobody"')
        self.ended(run, "go_on")
        self.console.type("grep --only-matching 'going on after step.*' .threestage/stages/pretrain/log")
        self.tell("finished")
        self.console.quote(self.runs.page(run, "retrain"))
        self.weights["go_on"] = self.sha256()
        assert self.beside.running.wait() == 0, self.beside.said()
        self.weights["undisturbed"] = self.sha256(self.beside.folder)
        self.trainings = self.steps_of(STEPS)

    def refuse(self) -> None:
        """The classifier of that run is worse, and the gates refuse it."""
        self.console.type("python -m flows.review classifier --auto")

    def reject(self) -> None:
        """A person rejects, and the next retrain leaves it so."""
        said = '--reason "nobody needs it yet" --by reviewer-2'
        self.console.type(f"python -m flows.review reject foundation {said}")
        self.tell("stays_rejected")
        run = self.deployment_run(DAILY)
        self.ended(run, "reject")
        self.console.quote(self.runs.page(run, "retrain"))

    def roll_back(self) -> None:
        """The champion before is champion again."""
        self.console.type('python -m flows.review rollback classifier --reason "complaints" --by reviewer-1')
        self.console.type("python -m flows.review history classifier")


def main() -> int:
    """Make a small project, play the story in it, and write the page."""
    with tempfile.TemporaryDirectory() as place:
        folder = make_project(Path(place, "threestage"))
        made = run(folder, "all_stages", PYTHONPATH=str(ROOT / "tests"))
        if made.returncode:
            sys.stderr.write(made.stderr)
            return 1
        story = Story(folder)
        story.play()
    PAGE.write_text(story.console.page())
    for scene, seconds in story.seconds.items():
        sys.stdout.write(f"{scene}: {seconds:.0f} s\n")
    sys.stdout.write(f"{PAGE.relative_to(ROOT)} is written\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
