import json
import pickle
import struct

import pytest
import torch
from model_shapes import LLAMA
from published import edit_weights

from llm.errors import UserError, UserFileError
from llm.formats.model_folder import load_model, save_model
from llm.loaded_model import LoadedModel
from llm.model.attention import Context
from llm.objectives import load

TOKENS = torch.tensor([[5, 7, 11, 13]])


@pytest.fixture
def folder(tmp_path, make_gpt, encoding):
    save_model(tmp_path, LoadedModel(make_gpt(), encoding), objective="language_model")
    return tmp_path


def test_saved_model_comes_back_bit_for_bit_without_pickle(folder, make_gpt, encoding, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("pickle was used")

    for name in ("load", "loads", "dump", "dumps", "Unpickler", "Pickler"):
        monkeypatch.setattr(pickle, name, refuse)
    contents = {path.name: path.read_bytes() for path in folder.iterdir()}
    torch.manual_seed(3)
    model, tokenizer = load_model(folder)
    assert torch.equal(torch.rand(4), torch.rand(4, generator=torch.Generator().manual_seed(3)))
    assert torch.equal(model(TOKENS), make_gpt()(TOKENS))
    assert not model.training
    assert model.config == make_gpt().config
    assert tokenizer.encode_ordinary("the cat") == encoding.encode_ordinary("the cat")
    save_model(folder, LoadedModel(model, tokenizer), objective="language_model")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == contents


def test_loaded_model_trains_and_does_not_depend_on_its_file(folder, make_gpt):
    model, _ = load_model(folder, dropout=0.25)
    weights = folder / "model.safetensors"
    with weights.open("r+b") as file:
        file.write(bytes(weights.stat().st_size))
    assert model.config.dropout == model.dropout.p == model.blocks[0].attention.dropout == 0.25
    assert torch.equal(model(TOKENS), make_gpt()(TOKENS))
    model(TOKENS).sum().backward()
    assert all(weight.grad is not None for weight in model.parameters())


def test_first_blocks_alone_are_loaded(folder, make_gpt):
    model, _ = load_model(folder, n_layer=1)
    expected = make_gpt()
    del expected.blocks[1]
    assert torch.equal(model(TOKENS), expected(TOKENS))
    with pytest.raises(UserError, match=r"config\.json: 3 layers are more than the model's 2"):
        load_model(folder, n_layer=3)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"norm.weight": None}, r"tensor norm\.weight has shape None, the model wants \[16\]"),
        ({"extra": torch.zeros(2)}, r"tensor extra has shape \[2\], the model wants None"),
        ({"norm.weight": torch.zeros(15)}, r"tensor norm\.weight has shape \[15\], the model wants \[16\]"),
        ({"norm.weight": torch.zeros(16, dtype=torch.int8)}, r"tensor norm\.weight is I8, not one of F32, F16, BF16"),
    ],
)
def test_missing_unknown_or_misshapen_tensor_is_named(folder, change, reason):
    edit_weights(folder, change)
    with pytest.raises(ValueError, match=rf"^{folder}/model\.safetensors: {reason}$"):
        load_model(folder)


def test_missing_truncated_or_corrupt_file_is_named(folder):
    path = folder / "model.safetensors"
    for content in (path.read_bytes()[:-5], struct.pack("<Q", 10) + b"not a json"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"model\.safetensors: "):
            load_model(folder)
    for name in ("model.safetensors", "config.json"):
        (folder / name).unlink()
        with pytest.raises(UserFileError, match=name):
            load_model(folder)


SPAM = {"labels": ["ham", "spam"], "max_tokens": 32}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"gpt": {"n_layer": 2}}, "n_head"),
        ({"objective": None}, "objective is missing"),
        ({"objective": "oracle"}, "objective 'oracle' is not one of assistant, classifier, language_model"),
        ({"objective": "classifier"}, "'classifier' is missing"),
        ({"objective": "classifier", "classifier": SPAM | {"max_tokens": 33}}, "max_tokens 33 is more"),
        ({"objective": "classifier", "classifier": SPAM | {"labels": ["ham"]}}, "at least 2 items"),
    ],
)
def test_wrong_config_is_named_on_one_line(folder, change, reason):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=rf"config\.json: .*{reason}") as caught:
        load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["{", "[" * 100_000])
def test_corrupt_config_is_named(folder, content):
    (folder / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"config\.json: not JSON"):
        load_model(folder)


def test_weights_as_stored_keep_their_precision_and_the_stream_is_float32(tmp_path, make_gpt, encoding):
    gpt = make_gpt(**LLAMA)
    for weight in gpt.parameters():
        if weight.ndim == 2:
            weight.data = weight.data.bfloat16()
    save_model(tmp_path, LoadedModel(gpt, encoding), objective="language_model")
    stored, _ = load_model(tmp_path, as_stored=True)
    torch.testing.assert_close(stored.state_dict(), gpt.state_dict(), rtol=0, atol=0)
    widened, _ = load_model(tmp_path)
    torch.testing.assert_close(widened.state_dict(), gpt.float().state_dict(), rtol=0, atol=0)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert stored.hidden_states(TOKENS).dtype == torch.float32
        assert stored.blocks[0](stored.embedding.token(TOKENS).float(), Context()).dtype == torch.float32
        expected = widened(TOKENS)
        assert (stored(TOKENS) - expected).norm() / expected.norm() < 0.01


def test_context_length_shortens_rotary_positions_alone(folder, make_gpt, encoding):
    with pytest.raises(UserError, match=r"config\.json: context_length 8: learned positions keep the model's 32$"):
        load_model(folder, context_length=8)
    with pytest.raises(UserError, match=r"config\.json: context_length 33 is more than the model's 32$"):
        load_model(folder, context_length=33)
    rotary = make_gpt(**LLAMA)
    save_model(folder, LoadedModel(rotary, encoding), objective="language_model")
    model, _ = load_model(folder, context_length=8)
    assert model.config == rotary.config.model_copy(update={"context_length": 8})
    assert torch.equal(model(TOKENS), rotary(TOKENS))
