import logging
from copy import deepcopy

import numpy as np
import pytest
import torch
from model_shapes import FAMILIES, LLAMA, SHORT_SCALING
from processors import be
from torch import nn

from llm.formats.model_folder import load_model, save_model
from llm.generation.packed import PackedGPT, pack, pack_for_inference, pack_for_reading
from llm.generation.text import generate
from llm.kernels.processor import KINDS, processor
from llm.kernels.serving.decode_library import load_library
from llm.loaded_model import LoadedModel
from llm.objectives import load_for_inference
from llm.objectives.classifier import Classifier, ClassifierConfig, probabilities

SIZE = {"n_head": 4, "n_embd": 64}


@pytest.fixture(params=sorted(FAMILIES))
def gpt(request, make_gpt):
    """A model of 64 inputs, with weights of the size that training gives."""
    gpt = make_gpt(**FAMILIES[request.param] | SIZE)
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


def test_classifier_is_served_by_the_fastest_products(gpt, encoding, tmp_path):
    classifier = Classifier(gpt, ClassifierConfig(labels=("ham", "spam"), max_tokens=8))
    save_model(tmp_path, LoadedModel(classifier, encoding), objective="classifier")
    served, _ = load_for_inference(tmp_path)
    texts = ["the cat sat on the mat", "the dog"]
    served_probabilities = probabilities(LoadedModel(served, encoding), texts)
    assert served_probabilities == pytest.approx(probabilities(LoadedModel(classifier, encoding), texts), abs=0.005)
    assert isinstance(served.gpt, PackedGPT) == (processor().reading == "C")
    classifier.gpt = pack_for_reading(classifier.gpt)
    assert np.array_equal(served_probabilities, probabilities(LoadedModel(classifier, encoding), texts))


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
def test_model_is_packed_for_reading_and_generation_as_the_kind_of_processor_is_fastest(gpt, monkeypatch, caplog, kind):
    be(monkeypatch, kind)
    with caplog.at_level(logging.INFO, logger="llm.generation.packed"):
        generates = pack_for_inference(deepcopy(gpt))
    reads = pack_for_reading(gpt)
    assert isinstance(reads, PackedGPT) == (kind in READS_IN_C)
    if kind not in READS_IN_C:
        assert weight_types(reads) == {torch.bfloat16 if kind == "amx" else torch.float32}
    assert isinstance(generates, PackedGPT) == (kind != "other")
    if kind == "other":
        assert weight_types(generates) == {torch.float32}
        assert "decode.c needs AVX2 or AVX-512" in caplog.text
    else:
        assert (generates.prompt_model is not None) == (kind == "amx")
        assert not caplog.records
        assert pack_for_inference(generates) is pack_for_reading(generates) is generates


@pytest.mark.parametrize("shape", [{"qkv_bias": True}, {"rotary_scaling": SHORT_SCALING, "rotary_base": 10.0}])
def test_decode_c_computes_biases_of_queries_keys_and_values_alone_and_scaled_rotations(make_gpt, shape):
    gpt = make_gpt(**LLAMA, **SIZE, **shape)
    assert error(gpt, pack(deepcopy(gpt), load_library(), exact=True)) <= 1e-5


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ({"head_size": 24}, "heads of 24, which are not n_embd / n_head wide"),
        ({"qk_norm": True, "qk_norm_weight": True}, "weights in the norms of queries and keys"),
    ],
)
def test_pack_for_inference_leaves_what_decode_c_lacks_to_torch(make_gpt, monkeypatch, caplog, shape, reason):
    be(monkeypatch, "avx2")
    gpt = make_gpt(**LLAMA, **SIZE, **shape)
    with caplog.at_level("INFO"):
        served = pack_for_inference(deepcopy(gpt))
    assert f"torch makes this model's texts: decode.c has no {reason}" in caplog.text
    assert not isinstance(served, PackedGPT)
    assert error(deepcopy(gpt).to(served.norm.weight.dtype), served) == 0
    with pytest.raises(ValueError, match=f"decode.c has no {reason}"):
        pack(gpt, load_library())
