import subprocess
import sys
import time

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
        for part in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
            part()
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
    assert metadata == VALUES | {"general.architecture": "llama"}
    assert {key: type(value) for key, value in metadata.items() if key in VALUES} == {
        key: type(value) for key, value in VALUES.items()
    }


@pytest.mark.parametrize("alignment", [None, 256])
@pytest.mark.parametrize(
    ("kind", "error"),
    [("F32", 0), ("F16", 5e-4), ("BF16", 4e-3), ("Q8_0", 5e-3), ("Q5_1", 0.05), ("Q4_1", 0.1), ("Q4_0", 0.15)],
)
def test_tensors_come_in_torchs_order_as_float32(write, kind, error, alignment):
    shape = (3, 5, 2, 64)
    weights = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    _, tensors = read_gguf(
        write({"first": (np.ones(3, np.float32), Kind.F32), "w": quantized(weights, Kind[kind])}, alignment)
    )
    assert list(tensors) == ["first", "w"]
    assert tensors["w"].shape == shape
    read = tensors["w"].read()
    assert (read.dtype, tuple(read.shape)) == (torch.float32, shape)
    assert np.abs(read.numpy() - weights).max() <= error
    assert np.array_equal(read.numpy(), gguf.quants.dequantize(*quantized(weights, Kind[kind])))
    assert tensors["first"].read().tolist() == [1, 1, 1]


def test_a_tensor_of_many_chunks_is_read_whole_and_anew(write):
    weights = np.random.default_rng(0).standard_normal((3000, 256), dtype=np.float32)
    tensor = read_gguf(write({"w": (weights, Kind.F32)}))[1]["w"]
    first = tensor.read()
    assert np.array_equal(first.numpy(), weights)
    first.zero_()
    assert np.array_equal(tensor.read().numpy(), weights)


def test_the_file_read_so_far_does_not_count_as_memory(write):
    path = write({f"w{n}": (np.ones((1024, 1024), np.float32), Kind.F32) for n in range(32)})  # 128 MB
    code = f"""
from pathlib import Path
from llm.formats.gguf import read_gguf
from psutil import Process
_, tensors = read_gguf(Path({str(path)!r}))
tensors["w0"].read()
before = Process().memory_info().rss
kept = [tensor.read().sum() for tensor in tensors.values()]
print((Process().memory_info().rss - before) / 2**20)
"""
    grown = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert grown < 24


@pytest.mark.parametrize(("kind", "value"), [("float32", 32.0), ("int32", 0), ("int32", -32), ("string", "x")])
def test_an_alignment_that_is_no_positive_whole_number_is_refused(tmp_path, kind, value):
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    getattr(writer, f"add_{kind}")("general.alignment", value)
    writer.add_tensor("w", np.ones(3, np.float32))
    for part in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        part()
    writer.close()
    with pytest.raises(
        ValueError, match=rf"model\.gguf: not a whole GGUF file: its general\.alignment is {value!r}, not"
    ):
        read_gguf(path)


def test_a_long_vocabulary_is_read_fast_and_right(tmp_path):
    words = [f"word{n}" for n in range(50_000)]
    writer = gguf.GGUFWriter(tmp_path / "v.gguf", "llama")
    writer.add_array("words", words)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    start = time.process_time()
    assert read_gguf(tmp_path / "v.gguf")[0]["words"] == words
    assert time.process_time() - start < 0.5


@settings(max_examples=300)
@given(data=st.data())
def test_a_torn_file_is_named(whole, data, tmp_path_factory):
    content = whole.read_bytes()
    torn = tmp_path_factory.getbasetemp() / "torn.gguf"
    end = len(content.rstrip(b"\0")) - 1  # its tensors are padded
    torn.write_bytes(content[: data.draw(st.integers(0, end))])
    with pytest.raises(ValueError, match=r"torn\.gguf: not a whole GGUF file"):
        read_gguf(torn)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of scales that are no numbers
@settings(max_examples=500)
@given(data=st.data())
def test_a_damaged_header_is_an_error_or_another_header(whole, data, tmp_path_factory):
    content = bytearray(whole.read_bytes())
    at = data.draw(st.integers(0, 500))
    content[at : at + 8] = data.draw(st.binary(min_size=8, max_size=8))
    damaged = tmp_path_factory.getbasetemp() / "damaged.gguf"
    damaged.write_bytes(content)
    tensors, said = {}, "damaged.gguf: not a whole GGUF file"
    try:
        _, tensors = read_gguf(damaged)
    except ValueError as error:
        said = str(error)
    assert "damaged.gguf: not a whole GGUF file" in said
    assert all(tensor.read().shape == tensor.shape for tensor in tensors.values())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "cannot mmap an empty file"),
        (b"PK\x03\x04" * 9, "it does not begin with GGUF"),
        (b"GGUF\x01\0\0\0" + bytes(16), r"its version is 1; little-endian ones of \(2, 3\) are read"),
        (b"GGUF\x03\0\0\0" + b"\xff" * 16, "it ends at byte 24, inside its header"),
    ],
)
def test_another_kind_of_file_says_what_it_is_not(content, reason, tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"model\.gguf: not a whole GGUF file: {reason}"):
        read_gguf(path)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (99, "tensor w is of type 99, which can't be read"),
        (int(Kind.I32), "tensor w is of type I32, which can't be read"),
        (int(Kind.Q4_K), "tensor w has rows of 64, no multiple of Q4_K's blocks of 256"),
        (int(Kind.F32), r"tensor w ends at byte \d+, the file at \d+"),
    ],
)
def test_a_tensor_that_cannot_be_read_is_named(whole, kind, reason, tmp_path):
    content = whole.read_bytes()
    at = content.index(b"w" + (2).to_bytes(4, "little")) + 21  # its name, count of dimensions and both of these
    path = tmp_path / "model.gguf"
    path.write_bytes(content[:at] + kind.to_bytes(4, "little") + content[at + 4 :])
    with pytest.raises(ValueError, match=rf"model\.gguf: not a whole GGUF file: {reason}"):
        read_gguf(path)


def test_a_tensor_of_many_dimensions_is_refused_before_they_are_read(whole, tmp_path):
    content = whole.read_bytes()
    at = content.index(b"w" + (2).to_bytes(4, "little")) + 1
    path = tmp_path / "model.gguf"
    path.write_bytes(content[:at] + (100_000).to_bytes(4, "little") + content[at + 4 :])
    with pytest.raises(ValueError, match="tensor w has 100000 dimensions; 4 are the most"):
        read_gguf(path)
