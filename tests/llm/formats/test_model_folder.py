import json
import pickle
import struct

import pytest
import torch
from published import edit_weights

from llm.errors import UserError, UserFileError
from llm.formats.model_folder import load_model, read_config, save_model
from llm.loaded_model import LoadedModel
from llm.model.attention import Context
from llm.objectives import load, objective_package
from llm.objectives.classifier import Classifier, ClassifierConfig, build

TOKENS = torch.tensor([[5, 7, 11, 13]])


@pytest.fixture
def saved(tmp_path, make_gpt, encoding):
    save_model(tmp_path, LoadedModel(make_gpt(), encoding), objective="language_model")
    return tmp_path


def test_saved_model_comes_back_bit_for_bit_without_pickle(saved, make_gpt, encoding, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("pickle was used")

    for name in ("load", "loads", "dump", "dumps", "Unpickler", "Pickler"):
        monkeypatch.setattr(pickle, name, refuse)
    model, tokenizer = load_model(saved)
    assert torch.equal(model(TOKENS), make_gpt()(TOKENS))
    assert not model.training
    assert model.config == make_gpt().config
    assert tokenizer.encode_ordinary("the cat") == encoding.encode_ordinary("the cat")
    save_model(saved, LoadedModel(model, tokenizer), objective="language_model")


def test_saved_classifier_keeps_its_head_and_settings(tmp_path, make_gpt, encoding):
    made = Classifier(make_gpt(), ClassifierConfig(labels=("no", "yes"), max_tokens=20, threshold=0.3)).eval()
    save_model(tmp_path, LoadedModel(made, encoding), objective="classifier")
    model, _ = load_model(tmp_path, build=build, dropout=0.25)
    assert model.config == made.config
    assert model.gpt.config.dropout == 0.25
    assert torch.equal(model(TOKENS, torch.tensor([3])), made(TOKENS, torch.tensor([3])))


def test_config_holds_the_objective_and_further_settings(tmp_path, make_gpt, encoding):
    save_model(tmp_path, LoadedModel(make_gpt(), encoding), objective="assistant", cleaning="tasks.data.mail")
    config = read_config(tmp_path)
    assert (config["objective"], config["cleaning"]) == ("assistant", "tasks.data.mail")
    assert config["gpt"] == make_gpt().config.model_dump()
    assert objective_package(tmp_path).__name__ == "llm.objectives.assistant"
    assert load(tmp_path)[0].config == make_gpt().config


def test_saved_models_are_equal_bytes_if_they_are_equal(tmp_path, make_gpt, encoding):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        save_model(tmp_path / name, LoadedModel(make_gpt(), encoding), objective="language_model")
    for file in ("config.json", "model.safetensors", "tokenizer.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_load_model_sets_dropout_for_further_training(saved):
    model, _ = load_model(saved, dropout=0.25)
    assert model.config.dropout == model.dropout.p == model.blocks[0].attention.dropout == 0.25


def test_loaded_model_trains_and_leaves_the_random_numbers_alone(saved):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    model, _ = load_model(saved)
    assert torch.equal(torch.rand(4), expected)
    model(TOKENS).sum().backward()
    assert all(weight.grad is not None for weight in model.parameters())


def test_loaded_model_does_not_depend_on_its_file(saved):
    model, _ = load_model(saved)
    before = model(TOKENS)
    weights = saved / "model.safetensors"
    with weights.open("r+b") as file:
        file.write(bytes(weights.stat().st_size))
    assert torch.equal(model(TOKENS), before)


def test_weights_of_16_bits_become_32(saved, make_gpt):
    edit_weights(saved, {name: weight.bfloat16() for name, weight in make_gpt().state_dict().items()})
    model, _ = load_model(saved)
    assert torch.equal(model.norm.weight, make_gpt().norm.weight.bfloat16().float())
    edit_weights(saved, {"norm.weight": torch.zeros(16, dtype=torch.int8)})
    with pytest.raises(ValueError, match=r"model\.safetensors: tensor norm\.weight is I8, not one of F32, F16, BF16"):
        load_model(saved)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"norm.weight": None}, r"tensor norm\.weight has shape None, the model wants \[16\]"),
        ({"extra": torch.zeros(2)}, r"tensor extra has shape \[2\], the model wants None"),
        (
            {"embedding.position.weight": torch.zeros(31, 16)},
            r"tensor embedding\.position\.weight has shape \[31, 16\], the model wants \[32, 16\]",
        ),
    ],
)
def test_missing_unknown_or_misshapen_tensor_is_named(saved, change, reason):
    edit_weights(saved, change)
    with pytest.raises(ValueError, match=rf"^{saved}/model\.safetensors: {reason}$"):
        load_model(saved)


def test_truncated_or_corrupt_weights_file_is_named(saved):
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match=r"model\.safetensors: "):
        load_model(saved)
    path.write_bytes(struct.pack("<Q", 10) + b"not a json")
    with pytest.raises(ValueError, match=r"model\.safetensors: "):
        load_model(saved)


SPAM = {"labels": ["ham", "spam"], "max_tokens": 32}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"objective": "language_model", "gpt": {"n_layer": 2}}, "n_head"),
        ({"gpt": None}, "objective is missing"),
        (
            {"objective": "oracle", "gpt": None},
            "objective 'oracle' is not one of assistant, classifier, language_model",
        ),
        ({"objective": "classifier", "gpt": None}, "'classifier' is missing"),
        ({"objective": "classifier", "gpt": None, "classifier": SPAM | {"max_tokens": 33}}, "max_tokens 33 is more"),
        ({"objective": "classifier", "gpt": None, "classifier": SPAM | {"labels": ["ham"]}}, "at least 2 items"),
        ("{", "not JSON: Expecting property name"),
        ("[" * 100_000, "not JSON: maximum recursion depth"),
    ],
)
def test_wrong_config_is_named(saved, content, reason):
    path = saved / "config.json"
    good = json.loads(path.read_text())
    if isinstance(content, dict) and content.get("gpt", 1) is None:
        content["gpt"] = good["gpt"]
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(UserError, match=rf"config\.json: .*{reason}") as caught:
        load(saved)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_missing_file_is_named(saved, name):
    (saved / name).unlink()
    with pytest.raises(UserFileError, match=name):
        load_model(saved)


LLAMA = {"positions": "rotary", "norm": "rms", "mlp": "swiglu", "bias": False}


def test_weights_as_stored_keep_their_precision_and_the_stream_is_float32(tmp_path, make_gpt, encoding):
    gpt = make_gpt(**LLAMA)
    for weight in gpt.parameters():
        if weight.ndim == 2:
            weight.data = weight.data.bfloat16()
    save_model(tmp_path, LoadedModel(gpt, encoding), objective="language_model")
    stored, _ = load_model(tmp_path, as_stored=True)
    for name, weight in gpt.state_dict().items():
        assert weight.dtype == (torch.float32 if "norm" in name else torch.bfloat16), name
        loaded = stored.state_dict()[name]
        assert loaded.dtype == weight.dtype
        assert torch.equal(loaded, weight)
    assert {weight.dtype for weight in load_model(tmp_path)[0].parameters()} == {torch.float32}
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert stored.hidden_states(TOKENS).dtype == torch.float32
        assert stored.blocks[0](stored.embedding.token(TOKENS).float(), Context()).dtype == torch.float32
        expected = load_model(tmp_path)[0](TOKENS)
        assert (stored(TOKENS) - expected).norm() / expected.norm() < 0.01


def test_context_length_shortens_rotary_positions_alone(tmp_path, make_gpt, encoding):
    for name, shape in {"rotary": LLAMA, "learned": {}}.items():
        (tmp_path / name).mkdir()
        save_model(tmp_path / name, LoadedModel(make_gpt(**shape), encoding), objective="language_model")
    model, _ = load_model(tmp_path / "rotary", context_length=8)
    assert model.config == make_gpt(**LLAMA).config.model_copy(update={"context_length": 8})
    assert torch.equal(model(TOKENS), make_gpt(**LLAMA)(TOKENS))
    for name in ("rotary", "learned"):
        assert load_model(tmp_path / name, context_length=32)[0].config.context_length == 32
        with pytest.raises(UserError, match=r"config\.json: context_length 33 is more than the model's 32$"):
            load_model(tmp_path / name, context_length=33)
    with pytest.raises(UserError, match=r"config\.json: context_length 8: learned positions keep the model's 32$"):
        load_model(tmp_path / "learned", context_length=8)
