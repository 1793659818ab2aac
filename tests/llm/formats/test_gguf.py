import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.formats.gguf import read_gguf

VALUES = {
    "a.uint8": 7,
    "a.int64": -(2**40),
    "a.float32": 0.5,
    "a.bool": True,
    "a.string": "é漢🙂",
    "a.strings": ["Ġ t", "", "é"],
    "a.numbers": [1, -2, 3],
    "a.flags": [True, False],
}
WEIGHTS = torch.arange(8 * 64, dtype=torch.float32).reshape(8, 64).sin()


@pytest.fixture(scope="module")
def write(tmp_path_factory):
    """Write a GGUF file of VALUES and these (array, type) tensors."""

    def write(tensors, alignment=None):
        path = tmp_path_factory.mktemp("gguf") / "model.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        if alignment:
            writer.add_custom_alignment(alignment)
        writer.add_uint8("a.uint8", 7)
        writer.add_int64("a.int64", -(2**40))
        writer.add_float32("a.float32", 0.5)
        writer.add_bool("a.bool", True)
        writer.add_string("a.string", VALUES["a.string"])
        for name in ("strings", "numbers", "flags"):
            writer.add_array(f"a.{name}", VALUES[f"a.{name}"])
        for name, (array, kind) in tensors.items():
            writer.add_tensor(name, array, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write


def quantized(array, kind):
    return gguf.quants.quantize(np.ascontiguousarray(array), kind), kind


@pytest.fixture(scope="module")
def whole(write):
    """A file of one tensor, `w`."""
    return write({"w": quantized(WEIGHTS.numpy(), Kind.Q8_0)})


def test_metadata_are_plain_python_values(whole):
    metadata, _ = read_gguf(whole)
    values = {key: value for key, value in metadata.items() if key in VALUES}
    assert values == VALUES
    assert metadata["general.architecture"] == "llama"
    assert [type(value) for value in values.values()] == [type(VALUES[key]) for key in values]


@pytest.mark.parametrize("alignment", [None, 256])
@pytest.mark.parametrize(
    ("kind", "error"),
    [("F32", 0), ("F16", 5e-4), ("BF16", 4e-3), ("Q8_0", 5e-3), ("Q5_1", 0.05), ("Q4_1", 0.1), ("Q4_0", 0.15)],
)
def test_tensors_have_torchs_shape_and_are_read_anew_as_float32(write, kind, error, alignment):
    shape = (3, 5, 2, 64)
    weights = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    stored = quantized(weights, Kind[kind])
    ones = (np.ones(3, np.float32), Kind.F32)
    _, tensors = read_gguf(write({"first": ones, "w": stored}, alignment))
    assert list(tensors) == ["first", "w"]
    assert tensors["w"].shape == shape
    read = tensors["w"].read()
    assert (read.dtype, tuple(read.shape)) == (torch.float32, shape)
    assert np.abs(read.numpy() - weights).max() <= error
    assert np.array_equal(read.numpy(), gguf.quants.dequantize(*stored))
    read.zero_()
    assert np.array_equal(tensors["w"].read().numpy(), gguf.quants.dequantize(*stored))
    assert tensors["first"].read().tolist() == [1, 1, 1]


@settings(max_examples=100)
@given(data=st.data())
def test_truncated_file_is_refused_with_its_name(whole, data, tmp_path_factory):
    content = whole.read_bytes()
    torn = tmp_path_factory.getbasetemp() / "torn.gguf"
    end = len(content.rstrip(b"\0")) - 1  # its tensors are padded
    torn.write_bytes(content[: data.draw(st.integers(0, end))])
    with pytest.raises(ValueError, match=r"torn\.gguf: not a whole GGUF file"):
        read_gguf(torn)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "cannot mmap an empty file"),
        (b"PK\x03\x04" * 9, "GGUF magic invalid"),
        (b"GGUF\x01\0\0\0" + bytes(16), "file appears to be version 1"),
        (b"GGUF\0\0\0\x03" + bytes(16), "only little-endian files are read"),
        (b"GGUF\x03\0\0\0" + b"\xff" * 16, "index 0 is out of bounds"),
    ],
)
def test_file_of_another_kind_is_refused_with_the_reason(content, reason, tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"model\.gguf: not a whole GGUF file: .*{reason}"):
        read_gguf(path)


def test_tensor_type_without_dequantisation_is_refused_with_its_name(write):
    _, tensors = read_gguf(write({"w": (np.ones((2, 4), np.int32), Kind.I32)}))
    with pytest.raises(ValueError, match=r"model\.gguf: tensor w is of type I32, which can't be read"):
        tensors["w"].read()
