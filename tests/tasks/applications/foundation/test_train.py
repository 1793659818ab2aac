import pytest

from llm.config import GPTConfig
from llm.kernels.processor import processor
from llm.kernels.training.choose import WIDE_INT8, WORTH
from llm.kernels.training.compiled import cpp_compiler
from llm.model.gpt import GPT
from tasks.applications.foundation import train as foundation
from tasks.applications.foundation.train import SCRATCH, Train
from tasks.training.setup import TrainingFiles


@pytest.mark.parametrize("init_from", [SCRATCH, "models/of-others"])
def test_training_in_8_bits_is_for_models_from_scratch(token_files, monkeypatch, init_from):
    steps = int(WORTH / WIDE_INT8 / 128) + 1  # of 128 tokens: long enough to be compiled
    size = {"steps": steps, "batch_size": 2, "evaluation_batches": 1, "evaluate_every": 1, "checkpoint_every": 1}
    params = Train(learning_rate=1e-3, init_from=init_from, context_length=64, **size)
    gpt = GPT(GPTConfig(vocabulary_size=300, context_length=64, n_layer=1, n_head=8, n_embd=WIDE_INT8))
    monkeypatch.setattr(foundation, "start", lambda params, encoding: gpt)
    setup = foundation.prepare(params, TrainingFiles(dataset=token_files))
    fast = cpp_compiler() is not None and processor().learned_int8
    assert setup.compute.backend.in_int8 == (fast and init_from == SCRATCH)
    assert setup.objective.start_counts == (init_from != SCRATCH)


def test_published_weights_refuse_keys_of_a_shape():
    run = {"learning_rate": 1e-3, "steps": 1, "batch_size": 1, "evaluation_batches": 1, "evaluate_every": 1}
    run |= {"checkpoint_every": 1, "context_length": 64, "init_from": "gpt2-124m"}
    assert Train(**run).context_length == 64
    with pytest.raises(ValueError, match="n_layer, norm: gpt2-124m brings its own; delete the keys of its shape"):
        Train(**run, n_layer=2, norm="rms")
