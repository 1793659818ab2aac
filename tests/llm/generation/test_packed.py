from copy import deepcopy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from processors import needs_packed_bfloat16
from torch import nn

from llm.formats.model_folder import load_model, save_model
from llm.generation.sampling import Sampling
from llm.generation.text import generate
from llm.kernels.serving import packed
from llm.kernels.serving.packed import PackedLinear, pack_for_inference, pack_for_reading, prepack
from llm.objectives import load_for_inference
from llm.objectives.classifier import Classifier, ClassifierConfig, probabilities

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


def error(model: nn.Module, other: nn.Module) -> float:
    """How far two models' logits are apart: the norm of the difference over the norm."""
    tokens = torch.randint(model.config.vocabulary_size, (8, 32), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, found = model(tokens), other(tokens).float()
    return float((found - expected).norm() / expected.norm())


@needs_packed_bfloat16
def test_logits_stay_close_to_those_in_float32(gpt):
    assert error(gpt, prepack(deepcopy(gpt))) < 0.02  # measured: 0.009 (GPT-2) and 0.012 (Llama)


@needs_packed_bfloat16
def test_packing_changes_the_order_of_the_weights_and_not_the_result_of_bfloat16(gpt):
    plain, packed = error(gpt, deepcopy(gpt).bfloat16()), error(gpt, prepack(deepcopy(gpt)))
    assert packed == pytest.approx(plain, rel=0.05)


@needs_packed_bfloat16
def test_no_layer_is_left_out_and_a_tied_output_becomes_one(gpt):
    matrices = sum(isinstance(module, nn.Linear) for module in gpt.modules()) + (gpt.output is None)
    model = deepcopy(gpt)
    assert prepack(model) is model
    assert not any(isinstance(module, nn.Linear) for module in model.modules())
    assert sum(isinstance(module, PackedLinear) for module in model.modules()) == matrices
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}


@needs_packed_bfloat16
@pytest.mark.parametrize("rows", [2, 30])
def test_one_row_and_many_generate_the_same_with_and_without_draws(gpt, rows):
    model = prepack(deepcopy(gpt))
    prompts = [[1 + n, 2 + n][: 1 + n % 2] for n in range(rows)]
    for sampling in (Sampling(), Sampling(temperature=1.0, seed=1)):
        texts = [generate(model, [prompt], max_new_tokens=8, sampling=sampling)[0] for prompt in prompts]
        assert {len(text) for text in texts} == {8}
        assert generate(model, prompts, max_new_tokens=8, sampling=sampling) == texts


@needs_packed_bfloat16
@settings(max_examples=40)
@given(st.integers(1, 70), st.integers(1, 5), st.integers(1, 80), st.booleans(), st.integers(0, 2**16))
def test_layers_of_any_shape_come_close_to_the_exact_product(rows, sixteens, outputs, bias, seed):
    torch.manual_seed(seed)
    exact = nn.Linear(16 * sixteens, outputs, bias=bias)
    x = torch.randn(rows, 1, 16 * sixteens)
    with torch.inference_mode():
        expected = exact(x)
        found = PackedLinear(exact.weight, exact.bias)(x.bfloat16())
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 0.05


@pytest.mark.parametrize("convert", [pytest.param(prepack, marks=needs_packed_bfloat16), pack_for_inference])
def test_a_packed_model_refuses_to_be_saved(gpt, convert):
    with pytest.raises(ValueError, match="can't be saved; keep the one that it was made from"):
        convert(deepcopy(gpt)).state_dict()


def test_a_model_on_another_device_is_refused(make_gpt):
    with pytest.raises(ValueError, match="for a CPU, and the model is on meta"):
        prepack(deepcopy(make_gpt()).to("meta"))


def test_a_model_is_packed_for_inference_once_and_a_classifier_is_served_by_the_fastest_products(
    gpt, encoding, tmp_path
):
    model = deepcopy(gpt)
    assert pack_for_inference(model) is model
    decoder = model.decoder
    assert pack_for_inference(model) is pack_for_reading(model) is model
    assert model.decoder is decoder

    classifier = Classifier(gpt, ClassifierConfig(labels=("ham", "spam"), max_tokens=8))
    for name, objective, made in (("gpt", "language_model", gpt), ("classifier", "classifier", classifier)):
        (tmp_path / name).mkdir()
        save_model(tmp_path / name, made, encoding, objective)
    served, tokenizer = load_for_inference(tmp_path / "gpt")
    assert error(load_model(tmp_path / "gpt")[0], served) == pytest.approx(error(gpt, model))
    assert tokenizer.encode_ordinary("the cat") == encoding.encode_ordinary("the cat")
    served, _ = load_for_inference(tmp_path / "classifier")
    texts = ["the cat sat on the mat", "the dog"]
    found, plain = (probabilities(each, encoding, texts) for each in (served, classifier))
    by_bytes = packed.bytes_are_fast()
    if by_bytes:  # as decode.c reads the words, to the last bit
        classifier.gpt = model
    assert hasattr(served.gpt, "decoder") == by_bytes
    assert np.array_equal(found, probabilities(classifier, encoding, texts))
    assert found == pytest.approx(plain, abs=0.005)


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "by", ["decode.c", pytest.param("torch in bfloat16", marks=needs_packed_bfloat16), "torch in float32"]
)
def test_a_folder_is_packed_from_the_precision_that_it_has_as_from_float32(
    gpt, encoding, tmp_path, monkeypatch, stored, by
):
    save_model(tmp_path, deepcopy(gpt).to(stored), encoding, "language_model")
    if by != "decode.c":
        monkeypatch.setattr(packed, "load_library", lambda: None)
    monkeypatch.setattr(packed, "can_prepack", lambda: by == "torch in bfloat16")
    served, expected = load_for_inference(tmp_path)[0], pack_for_inference(load_model(tmp_path)[0])
    assert hasattr(served, "decoder") == (by == "decode.c")
    tokens = torch.arange(24).view(2, 12)
    assert torch.equal(served(tokens), expected(tokens))
    assert generate(served, tokens.tolist(), max_new_tokens=8) == generate(expected, tokens.tolist(), max_new_tokens=8)


@pytest.mark.parametrize(
    ("vnni", "amx", "capability", "by_bytes"),
    [
        (True, False, "AVX512", True),
        (True, True, "AVX512", False),
        (False, False, "AVX512", False),
        (False, False, "AVX2", True),
        (False, False, "DEFAULT", False),
    ],
)
def test_mails_are_read_in_8_bits_where_that_is_faster(gpt, monkeypatch, vnni, amx, capability, by_bytes):
    for name, there in (("vnni", vnni), ("amx_tile", amx)):
        monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda there=there: there)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert hasattr(pack_for_reading(deepcopy(gpt)), "decoder") == by_bytes


@pytest.mark.parametrize("fast", [True, False])
def test_without_products_of_bytes_a_classifier_is_read_in_what_the_processor_multiplies(gpt, monkeypatch, fast):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    for name, there in (("vnni", False), ("amx_tile", False), ("avx512_bf16", fast)):
        monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda there=there: there)
    model = pack_for_reading(deepcopy(gpt))
    weights = {module.weight.dtype for module in model.modules() if isinstance(module, nn.Linear)}
    assert weights == {torch.bfloat16 if fast else torch.float32}
