import torch
from instruction_tables import write

from llm.device import Compute
from llm.formats.model_folder import save_model
from llm.objectives.assistant import build
from tasks.applications import evaluation as find

CPU = Compute(torch.device("cpu"), torch.float32, "a test")


def test_a_tuned_assistant_is_measured_as_the_assistant_which_is_its_baseline(make_gpt, encoding, tmp_path):
    evaluation = find("preference")
    assert evaluation.params is find("assistant").params
    model, base = (build(make_gpt(seed=seed, context_length=128), {}).eval() for seed in (0, 1))
    (tmp_path / "base").mkdir()
    save_model(tmp_path / "base", base, encoding, "assistant")
    for split in ("train", "test"):
        write(tmp_path, split, instruction=["the cat"], output=["sat"], answers=[["sat"]])
    params = evaluation.params(batch_size=2, max_new_tokens=4, samples=1)
    found = evaluation.measure(model, encoding, tmp_path, tmp_path / "base", params, CPU, tmp_path)
    twice = evaluation.measure(base, encoding, tmp_path, tmp_path / "base", params, CPU, tmp_path)
    assert found["response_loss"] != found["baseline_response_loss"]
    for metric in ("response_loss", "exact_match"):
        assert twice[metric] == twice[f"baseline_{metric}"] == found[f"baseline_{metric}"]
