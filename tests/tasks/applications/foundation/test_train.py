import pytest
import torch

from llm.device import choose_compute
from llm.kernels.processor import has_fast_int8
from llm.kernels.training.choose import WIDE_INT8, WORTH
from llm.kernels.training.compiled import cpp_compiler
from llm.model.gpt import GPT
from llm.training.workers import ALONE
from tasks.applications.foundation import train as foundation
from tasks.applications.foundation.train import SCRATCH, Train
from tasks.training.setup import TrainingFiles


@pytest.mark.parametrize("init_from", [SCRATCH, "models/of-others"])
def test_what_begins_from_nothing_may_learn_in_8_bits_and_published_weights_may_not(
    token_files, monkeypatch, init_from
):
    shape = {"n_layer": 1, "n_head": 8, "n_embd": WIDE_INT8, "context_length": 64}
    steps = int(WORTH / WIDE_INT8 / 128) + 1  # of 128 tokens: long enough to be compiled
    size = {"steps": steps, "batch_size": 2, "evaluation_batches": 1, "evaluate_every": 1, "checkpoint_every": 1}
    params = Train(seed=1, learning_rate=1e-3, init_from=init_from, **shape, **size)
    monkeypatch.setattr(foundation, "start", lambda params, encoding: GPT(params.gpt(encoding.n_vocab)))
    setup = foundation.prepare(params, TrainingFiles(dataset=token_files), ALONE)
    fast = (
        cpp_compiler() is not None and choose_compute().dtype == torch.bfloat16 and has_fast_int8(torch.device("cpu"))
    )
    assert setup.compute.backend.in_int8 == (fast and init_from == SCRATCH)
    assert setup.objective.start_counts == (init_from != SCRATCH)
