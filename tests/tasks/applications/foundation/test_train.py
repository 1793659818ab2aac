import pytest

from llm.config import GPTConfig
from llm.model.gpt import GPT
from tasks.applications.foundation import train as foundation
from tasks.applications.foundation.train import SCRATCH, Train
from tasks.training.setup import TrainingFiles


@pytest.mark.parametrize("init_from", [SCRATCH, "models/of-others"])
def test_weights_before_the_first_step_count_where_they_are_published(token_files, monkeypatch, init_from):
    size = {"steps": 1, "batch_size": 2, "evaluation_batches": 1, "evaluate_every": 1, "checkpoint_every": 1}
    params = Train(learning_rate=1e-3, init_from=init_from, context_length=64, **size)
    gpt = GPT(GPTConfig(vocabulary_size=300, context_length=64, n_layer=1, n_head=2, n_embd=16))
    monkeypatch.setattr(foundation, "start", lambda params, encoding: gpt)
    setup = foundation.prepare(params, TrainingFiles(dataset=token_files))
    assert setup.objective.start_counts == (init_from != SCRATCH)


def test_published_weights_refuse_keys_of_a_shape():
    run = {"learning_rate": 1e-3, "steps": 1, "batch_size": 1, "evaluation_batches": 1, "evaluate_every": 1}
    run |= {"checkpoint_every": 1, "context_length": 64, "init_from": "gpt2-124m"}
    assert Train(**run).context_length == 64
    with pytest.raises(ValueError, match="n_layer, norm: gpt2-124m brings its own; delete the keys of its shape"):
        Train(**run, n_layer=2, norm="rms")
