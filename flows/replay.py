"""Have a base answer general prompts, which a fine-tune rehearses: `python -m flows.replay assistant`."""

from pathlib import Path

import mlflow
from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.command import run_stage
from llm.config import Replay
from llm.device import choose_compute
from llm.objectives.assistant.replay import answer_prompts, write_replay
from tasks.params import load_replay
from tasks.registry.tracking import stage_run
from tasks.stages.names import replay_file, replay_names


@flow(flow_run_name="replay-{name}")
def replay(name: str, params: Replay) -> None:
    """Answer the prompts, and mark the answers that are not good enough to learn from."""
    answer_all = task(answer_prompts, name="answer", cache_policy=NO_CACHE)
    with stage_run():
        mlflow.log_params(params.model_dump(mode="json"))
        answers = answer_all(params, Path("models") / params.base, choose_compute().device)
        kept = sum(not answer.left_out for answer in answers)
        mlflow.log_metrics({"prompts": len(answers), "kept": kept})
        write_replay(replay_file(name), answers)


def main() -> None:
    """Run the stage that the command line names."""
    run_stage(replay, "replay@{}".format, lambda name: {"name": name, "params": load_replay(name)}, names=replay_names)


if __name__ == "__main__":
    main()
