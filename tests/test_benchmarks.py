import json
import os

import pytest
import torch

from benchmarks import generate, report
from llm.config import GPTConfig

TINY = "--rounds 1 --prompt 4 --new 6 --texts 3 --context-length 32 --n-layer 1 --n-head 2 --n-embd 32"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    out = tmp_path_factory.mktemp("results") / "made" / "generate.json"
    generate.main([*TINY.split(), "--vocabulary-size", "300", "--out", str(out)])
    return json.loads(out.read_text())


def test_generation_is_compared_side_by_side_and_written(results):
    speeds, limits = results["tokens_per_second"], results["memory"]["limits"]
    assert list(speeds) == [
        "transformers float32",
        "transformers bfloat16",
        "float32",
        "bfloat16",
        "packed",
        "int8",
        "packed, 3 texts",
    ]
    assert min(speeds.values()) > 0
    ratio = results["ratios"]["packed to transformers bfloat16"]
    assert ratio == pytest.approx(speeds["packed"] / speeds["transformers bfloat16"], rel=1e-2)
    assert limits["int8"] / limits["float32"] == pytest.approx(4, rel=1e-2)
    assert results["settings"] == {"rounds": 1, "prompt": 4, "new": 6, "texts": 3}
    assert results["model"]["n_embd"] == 32


def test_results_name_the_machine_and_not_the_host(results):
    machine = results["machine"]
    assert machine["versions"]["torch"] == torch.__version__
    assert machine["versions"].keys() == {"python", "torch", "transformers"}
    assert machine["processor"]
    assert os.uname().nodename not in json.dumps(results)


def test_a_token_reads_the_blocks_and_the_output_layer():
    shape = {"context_length": 8, "n_layer": 3, "n_head": 2, "n_embd": 4, "vocabulary_size": 50}
    block = (2 * 4) + (4 * 12 + 12) + (4 * 4 + 4) + (2 * 4) + (4 * 16 + 16) + (16 * 4 + 4)
    for tied in (True, False):
        assert generate.weights_a_token(GPTConfig(**shape, tied=tied)) == 3 * block + 2 * 4 + 50 * 4


def test_contenders_take_turns_and_the_first_round_does_not_count():
    calls = []

    def contender(name: str, values: list[float]):
        def measure() -> float:
            calls.append(name)
            return values.pop(0)

        return measure

    medians = report.take_turns({"a": contender("a", [99, 1, 5, 2]), "b": contender("b", [99, 7, 7, 8])}, 3)
    assert medians == {"a": 2, "b": 7}
    assert calls == ["a", "b"] * 4
    with pytest.raises(ValueError, match="0 rounds"):
        report.take_turns({}, 0)


def test_a_table_lines_up(capsys):
    report.show("Speed", ("", "tokens"), [("one", 12345.6), ("three", 1.23456)])
    assert capsys.readouterr().out == "Speed\n\n       tokens\none    12,346\nthree    1.23\n\n"
