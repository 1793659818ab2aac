"""What a canary finds: the same bytes, numbers near enough, or numbers that are too far from the known ones."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from llm.errors import UserError
from tasks.registry.known import Known, Measured, Number, as_known, compare, read_known, write_known

AMX, AVX = "x86_64, cpu, bfloat16: AMX", "x86_64, cpu, bfloat16: AVX-512"
THEN = Measured(
    {"commit": "abc", "torch": "2.13.0"},
    {"foundation/evaluation/bits_per_byte": 2.5, "classifier/evaluation/f1": 0.9},
    {"models/foundation/model.safetensors": "f0", "models/classifier/model.safetensors": "c0"},
)
KNOWN = {AVX: as_known([THEN])}


def now(**numbers: float) -> Measured:
    return replace(
        THEN, numbers=THEN.numbers | {f"{name.replace('__', '/')}": value for name, value in numbers.items()}
    )


def test_a_tolerance_is_four_times_the_widest_distance_and_never_less_than_one_percent_or_three_rows_of_a_hundred():
    passes = [{"loss": 5.0, "f1": 0.9, "perplexity": 150.0}]
    passes += [{"loss": 5.1, "f1": 0.9, "perplexity": 150.0}, {"loss": 4.95, "f1": 0.89, "perplexity": 150.0}]
    found = as_known([Measured({}, numbers, {}) for numbers in passes]).numbers
    assert {name: number.within for name, number in found.items()} == {"loss": 0.4, "f1": 0.04, "perplexity": 1.5}
    assert as_known([THEN]).numbers["classifier/evaluation/f1"] == Number(0.9, 0.03)


def test_the_same_bytes_and_numbers_are_identical():
    found = compare(KNOWN, AVX, THEN)
    assert found.identical
    assert (found.outside, found.other_bytes, found.reasons) == ((), (), ())
    assert str(found) == "identical: 2 numbers and the bytes that they come from"


def test_other_bytes_whose_numbers_are_near_enough_are_said_with_what_else_is_other():
    other = replace(now(classifier__evaluation__f1=0.88), circumstances=THEN.circumstances | {"torch": "2.14.0"})
    found = compare(KNOWN, AVX, replace(other, sha256=THEN.sha256 | {"models/classifier/model.safetensors": "c1"}))
    assert not found.identical
    assert found.outside == ()
    first = "models/classifier/model.safetensors is the first file with other bytes"
    assert str(found) == f"within tolerance: 2 numbers; {first}; torch was 2.13.0, here it is 2.14.0"


@pytest.mark.parametrize("f1", [0.8699, 0.9301, math.nan, math.inf])
def test_a_number_that_is_too_far_away_is_outside_whatever_the_bytes_say(f1):
    found = compare(KNOWN, AVX, now(classifier__evaluation__f1=f1))
    assert [row.name for row in found.outside] == ["classifier/evaluation/f1"]
    assert str(found) == f"1 outside tolerance: 2 numbers; classifier/evaluation/f1 {f1:g} (known 0.9 within 0.03)"


def test_a_number_that_is_gone_is_outside_and_one_that_is_new_is_not():
    numbers = {"classifier/evaluation/recall": 0.8, "foundation/evaluation/bits_per_byte": 2.5}
    found = compare(KNOWN, AVX, replace(THEN, numbers=numbers))
    assert [str(row) for row in found.outside] == ["classifier/evaluation/f1 missing (known 0.9 within 0.03)"]
    assert str(found.rows[-1]) == "classifier/evaluation/recall 0.8 (not known)"


def test_of_models_that_did_not_run_nothing_is_asked():
    name = "foundation/evaluation/bits_per_byte"
    found = compare(KNOWN, AVX, Measured(THEN.circumstances, {name: 2.5}, {}))
    assert [row.name for row in found.rows] == [name]
    assert found.identical


def test_a_kind_of_processor_that_nobody_measured_is_held_against_another_which_is_said():
    found = compare(KNOWN, AMX, now(classifier__evaluation__f1=0.8))
    assert str(found).endswith(f"(known 0.9 within 0.03); nothing is known of {AMX}, only of {AVX}")


def test_what_is_measured_again_takes_the_place_of_what_was_known_and_all_else_stays(tmp_path):
    path = tmp_path / "canary" / "known.json"
    assert read_known(path) == {}
    for kind in (AVX, AMX):
        write_known(kind, as_known([THEN]), path)
    again = Known({"commit": "def"}, {"classifier/evaluation/f1": Number(0.95, 0.03)}, {"models/classifier/a": "c1"})
    write_known(AVX, again, path)
    found = read_known(path)
    assert found[AMX] == as_known([THEN])
    bits = as_known([THEN]).numbers["foundation/evaluation/bits_per_byte"]
    assert found[AVX].numbers == {"foundation/evaluation/bits_per_byte": bits} | again.numbers
    assert found[AVX].circumstances == {"commit": "def"}
    assert found[AVX].sha256 == THEN.sha256 | again.sha256


def test_a_file_of_another_form_is_an_error_that_says_where(tmp_path):
    path = Path(tmp_path, "known.json")
    path.write_text(json.dumps({AVX: {"circumstances": {}, "numbers": {"f1": {"value": "high"}}, "sha256": {}}}))
    with pytest.raises(UserError, match=r"known.json: .*numbers.f1.value: Input should be a valid number"):
        read_known(path)
