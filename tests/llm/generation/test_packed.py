import logging
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn

from llm.formats.model_folder import load_model, save_model
from llm.generation import packed
from llm.generation.packed import PackedGPT, pack_for_inference, pack_for_reading
from llm.generation.text import generate
from llm.kernels.processor import KINDS, processor
from llm.kernels.serving.decode_library import load_library
from llm.loaded_model import LoadedModel
from llm.objectives import load_for_inference
from llm.objectives.classifier import Classifier, ClassifierConfig, probabilities
from tests.processors import be

LLAMA = {"positions": "rotary", "norm": "rms", "mlp": "swiglu", "bias": False, "tied": False, "n_kv_head": 2}
FAMILIES = {"gpt2": {}, "llama": LLAMA}


@pytest.fixture(params=sorted(FAMILIES))
def gpt(request, make_gpt):
    """A model of 64 inputs, with weights of the size that training gives."""
    gpt = make_gpt(n_head=4, n_embd=64, **FAMILIES[request.param])
    for weight in gpt.parameters():
        if weight.ndim == 2:
            nn.init.normal_(weight, std=0.1)
    return gpt


def error(model: nn.Module, changed: nn.Module) -> float:
    """How far a changed model's logits are from the model's: the norm of the difference over the norm."""
    tokens = torch.randint(model.config.vocabulary_size, (8, 32), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = model(tokens)
        difference = changed(tokens).float() - expected
    return float(difference.norm() / expected.norm())


def test_packed_model_refuses_to_be_saved(gpt):
    with pytest.raises(ValueError, match="can't be saved; keep the one that it was made from"):
        packed.pack(gpt, load_library()).state_dict()


def test_pack_for_inference_packs_once_and_a_classifier_is_served_by_the_fastest_products(gpt, encoding, tmp_path):
    model = packed.pack(deepcopy(gpt), load_library())
    assert pack_for_inference(model) is pack_for_reading(model) is model
    classifier = Classifier(gpt, ClassifierConfig(labels=("ham", "spam"), max_tokens=8))
    for name, objective, made in (("gpt", "language_model", gpt), ("classifier", "classifier", classifier)):
        (tmp_path / name).mkdir()
        save_model(tmp_path / name, LoadedModel(made, encoding), objective=objective)
    served, tokenizer = load_for_inference(tmp_path / "gpt")
    assert error(load_model(tmp_path / "gpt")[0], served) == pytest.approx(
        error(gpt, pack_for_inference(deepcopy(gpt)))
    )
    assert tokenizer.encode_ordinary("the cat") == encoding.encode_ordinary("the cat")
    served, _ = load_for_inference(tmp_path / "classifier")
    texts = ["the cat sat on the mat", "the dog"]
    probabilities_served = probabilities(LoadedModel(served, encoding), texts)
    probabilities_float32 = probabilities(LoadedModel(classifier, encoding), texts)
    reads_in_c = processor().reading == "C"
    if reads_in_c:  # as decode.c reads the words, to the last bit
        classifier.gpt = model
    assert isinstance(served.gpt, PackedGPT) == reads_in_c
    assert np.array_equal(probabilities_served, probabilities(LoadedModel(classifier, encoding), texts))
    assert probabilities_served == pytest.approx(probabilities_float32, abs=0.005)


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["amx", "avx512-bf16", "other"])
def test_folder_is_packed_from_its_own_precision_as_from_float32(gpt, encoding, tmp_path, monkeypatch, stored, kind):
    save_model(tmp_path, LoadedModel(deepcopy(gpt).to(stored), encoding), objective="language_model")
    be(monkeypatch, kind)
    served, expected = load_for_inference(tmp_path)[0], pack_for_inference(load_model(tmp_path)[0])
    assert isinstance(served, PackedGPT) == (kind != "other")
    tokens = torch.arange(24).view(2, 12)
    assert torch.equal(served(tokens), expected(tokens))
    assert generate(served, tokens.tolist(), max_new_tokens=8) == generate(expected, tokens.tolist(), max_new_tokens=8)


def weight_types(model: nn.Module) -> set[torch.dtype]:
    return {module.weight.dtype for module in model.modules() if isinstance(module, nn.Linear)}


READS_IN_C = {"avx512-bf16", "avx512-vnni", "avx2-vnni", "avx2"}


@pytest.mark.parametrize("kind", [kind.name for kind in KINDS])
def test_pack_for_reading_uses_what_the_processor_multiplies_fastest(gpt, monkeypatch, kind):
    be(monkeypatch, kind)
    model = pack_for_reading(gpt)
    assert isinstance(model, PackedGPT) == (kind in READS_IN_C)
    if kind not in READS_IN_C:
        assert weight_types(model) == {torch.bfloat16 if kind == "amx" else torch.float32}


SCALING = {"factor": 8.0, "low_frequency_factor": 1.0, "high_frequency_factor": 2.0, "original_context_length": 12}
SCALED = {"rotary_scaling": SCALING, "rotary_base": 10.0}


@pytest.mark.parametrize("shape", [{"qkv_bias": True}, SCALED], ids=["Qwen2", "Llama 3.2"])
def test_decode_c_computes_biases_of_queries_keys_and_values_alone_and_scaled_rotations(make_gpt, shape):
    gpt = make_gpt(n_head=4, n_embd=64, **LLAMA, **shape)
    assert error(gpt, packed.pack(deepcopy(gpt), load_library(), exact=True)) <= 1e-5


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ({"head_size": 24}, "heads of 24, which are not n_embd / n_head wide"),
        ({"qk_norm": True, "qk_norm_weight": True}, "weights in the norms of queries and keys"),
    ],
)
def test_pack_for_inference_leaves_what_decode_c_lacks_to_torch(make_gpt, monkeypatch, caplog, shape, reason):
    be(monkeypatch, "avx2")
    gpt = make_gpt(n_head=4, n_embd=64, **LLAMA, **shape)
    with caplog.at_level("INFO"):
        served = pack_for_inference(deepcopy(gpt))
    assert f"torch makes this model's texts: decode.c has no {reason}" in caplog.text
    assert not isinstance(served, PackedGPT)
    assert error(deepcopy(gpt).to(served.norm.weight.dtype), served) == 0
    with pytest.raises(ValueError, match=f"decode.c has no {reason}"):
        packed.pack(gpt, load_library())


@pytest.mark.parametrize("kind", [kind.name for kind in KINDS])
def test_generation_uses_torch_where_the_c_code_has_no_registers(gpt, monkeypatch, caplog, kind):
    be(monkeypatch, kind)
    with caplog.at_level(logging.INFO, logger="llm.generation.packed"):
        model = pack_for_inference(gpt)
    reasons = [record.message for record in caplog.records]
    if kind == "other":
        assert weight_types(model) == {torch.float32}
        assert reasons == ["torch generates: decode.c needs AVX2 or AVX-512, and the processor is of the kind other"]
    else:
        assert isinstance(model, PackedGPT)
        assert (model.prompt_model is not None) == (kind == "amx")
        assert reasons == []
