"""GGUF files of others: a published one, and those that are torn, of another kind or computed in another way."""

from pydoc_data.topics import topics

import gguf
import numpy as np
import pytest
import torch
from gguf import GGUFValueType
from hypothesis import given
from hypothesis import strategies as st
from model_shapes import LLAMA, LLAMA_SCALING
from transformers import AutoModelForCausalLM

from llm.formats.export_gguf import export_gguf
from llm.formats.gguf import read_gguf
from llm.formats.huggingface import load_pretrained
from llm.loaded_model import LoadedModel


@pytest.fixture(scope="module")
def file(make_gpt, encoding, tmp_path_factory):
    """A Llama as GGUF."""
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    model = make_gpt(**LLAMA, n_embd=64, n_head=4, rotary_scaling=LLAMA_SCALING)
    export_gguf(path, LoadedModel(model, encoding), details={})
    return path


def rewrite(file, target, architecture="llama", tensors=None, **changes):
    """Copy a GGUF file with other tensors or metadata, without those that are None."""
    reader = gguf.GGUFReader(file)
    writer = gguf.GGUFWriter(target, architecture)
    for name, field in reader.fields.items():
        if name.startswith("tokenizer."):
            writer.add_key_value(name, field.contents(), field.types[0], field.types[-1])
        elif name.startswith("llama."):
            changes = {name.removeprefix("llama."): field.contents()} | changes
    for key, value in changes.items():
        if value is not None:
            writer.add_key_value(f"llama.{key}", value, GGUFValueType.get_type(value))
    arrays = {tensor.name: tensor.data for tensor in reader.tensors} | (tensors or {})
    for name, array in arrays.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def slowdown(numbers):
    return {"tensors": {"rope_freqs.weight": np.float32(numbers)}}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"architecture": "falcon"}, "general.architecture is 'falcon'"),
        ({"rope.scaling.type": "yarn"}, "rope.scaling.type is 'yarn'"),
        ({"expert_count": 8}, "expert_count is 8"),
        ({"attention.value_length": 8}, "attention.value_length is 8; GPT computes 16"),
        ({"attention.key_length": 8}, "rope.dimension_count is 16; GPT computes 8"),
        ({"rope.scaling.factor": 2}, "rope.scaling.factor is 2"),
        ({"attention.sliding_window": 12}, "attention.sliding_window is 12"),
        ({"block_count": 1}, r"tensor blk\.1\.attn_k\.weight has shape \[64, 64\], the model wants None"),
        ({"vocab_size": None, "tensors": {"token_embd.weight": np.float32(1)}}, "vocab_size None"),
        (slowdown([2] * 8), r"tensor rope_freqs\.weight slows"),
        (slowdown([0] * 8), r"tensor rope_freqs\.weight slows"),
        (slowdown([1] * 4), r"rope_freqs\.weight is 8; GPT computes 16"),
        ({"tensors": {"output_norm.weight": np.ones(64, np.int32)}}, r"tensor output_norm\.weight is of type I32"),
    ],
)
def test_gguf_file_that_gpt_does_not_compute_is_refused(file, tmp_path, changes, reason):
    with pytest.raises(ValueError, match=rf"model\.gguf: {reason}"):
        load_pretrained(rewrite(file, tmp_path / "model.gguf", **changes))


@given(data=st.data())
def test_truncated_file_is_refused_with_its_name(file, data, tmp_path_factory):
    content = file.read_bytes()
    torn = tmp_path_factory.getbasetemp() / "torn.gguf"
    end = len(content.rstrip(b"\0")) - 1  # its tensors are padded
    torn.write_bytes(content[: data.draw(st.integers(0, end))])
    with pytest.raises(ValueError, match=r"torn\.gguf: not a whole GGUF file"):
        read_gguf(torn)


@pytest.mark.parametrize(
    "content",
    [
        b"PK\x03\x04" * 9,
        b"GGUF\x01\0\0\0" + bytes(16),
        b"GGUF\0\0\0\x03" + bytes(16),  # big-endian
        b"GGUF\x03\0\0\0" + b"\xff" * 16,
    ],
)
def test_file_of_another_kind_is_refused_with_its_name(content, tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.gguf: not a whole GGUF file: ."):
        read_gguf(path)


def test_tensor_is_read_anew_each_time(file):
    _, tensors = read_gguf(file)
    first = tensors["output_norm.weight"].read()
    first.zero_()
    assert tensors["output_norm.weight"].read().any()
    assert first.dtype == torch.float32


@torch.inference_mode()
def test_smollm2_has_the_logits_of_transformers(smollm2):
    model, encoding = load_pretrained(smollm2, context_length=256)
    tokens_1T = torch.tensor([encoding.encode_ordinary(topics["floating"])[:256]])
    theirs = AutoModelForCausalLM.from_pretrained(smollm2.parent, gguf_file=smollm2.name).eval()
    torch.testing.assert_close(model(tokens_1T), theirs(tokens_1T).logits, atol=1e-3, rtol=0)
