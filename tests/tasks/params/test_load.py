"""params.yaml is checked, and a mistake is a line with file, key, reason and way out."""

import json
import re
from pathlib import Path

import pytest
import yaml
from params_files import GONE, OURS, write_params
from pydantic import BaseModel

from tasks.data.splits import Gates as DataGates
from tasks.params.blocks import Gates
from tasks.params.load import (
    check_outline,
    check_params,
    load_application,
    load_dataset,
    load_published_name,
    load_training,
)
from tasks.params.slices import find_dataset, find_evaluation, find_training
from tasks.stages.names import application_names, dataset_names, model_names

VALUES = yaml.safe_load(OURS.read_text())
TRAIN = "foundation.train"
REPLAY = {"base": "published", "prompts": "data/replay.jsonl", "max_new_tokens": 9}


def test_params_yaml_is_valid_and_parsed() -> None:
    check_params(OURS)
    foundation = load_application("foundation", OURS)
    assert foundation.train.learning_rate == VALUES["foundation"]["train"]["learning_rate"]
    assert foundation.evaluate.sample_prompts == tuple(VALUES["foundation"]["evaluate"]["sample_prompts"])
    assert foundation.train.gpt(300).vocabulary_size == 300
    assert load_dataset("emails", OURS).sources[0].sha256 == VALUES["datasets"]["emails"]["sources"][0]["sha256"]
    assert load_published_name(OURS) == VALUES["published"]


def test_names_are_those_of_the_blocks() -> None:
    assert dataset_names(OURS) == list(VALUES["datasets"])
    assert application_names(OURS) == list(VALUES["applications"])
    assert model_names(OURS) == ["foundation", *VALUES["applications"]]


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        (f"{TRAIN}.learning_rate", "fast", "input should be a valid number.*, not 'fast'"),
        (f"{TRAIN}.steps", True, "input should be a valid integer.*, not True"),
        (f"{TRAIN}.lerning_rate", 1e-3, "unknown key; did you mean learning_rate?"),
        (f"{TRAIN}.xyzzy", 1, "unknown key$"),
        (f"{TRAIN}.norm", "batch", "input should be 'layer' or 'rms', not 'batch'"),
        (f"{TRAIN}.steps", GONE, "missing"),
        ("applications", GONE, "missing"),
        ("published", 124, "124 is no name of weights"),
        ("publishd", "x", "unknown key; did you mean published?"),
        ("datasets.emails.sources", [], r"list should have at least 1 item.*, not \[\]"),
        ("datasets.emails.sources.0.sha", "x", "unknown key; did you mean sha256?"),
        ("datasets.corpus.sources.0.sha256", "ABC", "string should match pattern.*, not 'ABC'"),
        ("datasets.corpus.sources.0.source", "ftp://a/b", "sources are npm:NAME@VERSION, .*, not 'ftp://a/b'"),
        ("datasets.pictures", {}, "there is no tasks/data/pictures.py"),
        ("applications.quiz", {}, "there is no tasks/applications/quiz/train.py"),
        ("applications.assistant.evaluate.max_tokens", 1, "unknown key; did you mean max_new_tokens?"),
        ("applications.classifier.review.at_last", {}, "unknown key; did you mean at_least?"),
        ("applications.classifier.review.at_least.f1", "high", "input should be a valid number.*, not 'high'"),
        ("applications.classifier.base", "publishd", "'publishd' is not one of foundation, .*, published$"),
        ("applications.classifier.dataset", "mails", "'mails' is not one of corpus, emails, instructions"),
        ("applications.classifier.objective", "assistant", "tasks/applications/classifier/train.py has classifier"),
        ("applications.assistant.rehearses", "data/none.jsonl", "there is no data/none.jsonl; name"),
        ("replay.assistant.base", "publishd", "'publishd' is not one of foundation, .*, published$"),
        ("replay.assistant.base", "assistant", "assistant itself rehearses these answers; name foundation"),
        ("replay.assistant.prompts", "data/none.jsonl", "there is no data/none.jsonl"),
        ("replay.assistant.sistem", "x", "unknown key; did you mean system?"),
        ("replay.nothing", REPLAY, "data/replay/nothing.jsonl is for those who rehearse nothing"),
    ],
)
def test_mistake_is_one_line_with_file_key_and_reason(tmp_path: Path, key: str, value: object, reason: str) -> None:
    path = write_params(tmp_path, {key: value})
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path}: {key}')}: {reason}") as caught:
        check_params(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "mistake"),
    [
        (f"{TRAIN}.n_head", 3, f"{TRAIN}: n_embd 128 is not a multiple of n_head 3"),
        (f"{TRAIN}.optimizer", "adamw", f"{TRAIN}: muon_learning_rate does nothing with optimizer adamw; delete it"),
        (
            "datasets.emails.preprocess.validation",
            0.8,
            "datasets.emails.preprocess: validation 0.8 + test 0.2 leave nothing for train",
        ),
        (
            "applications.classifier.train.passes",
            None,
            "applications.classifier.train: unsure does nothing without a label that passes; "
            "name one under passes, or delete unsure",
        ),
        (
            "applications.classifier.train.lora",
            None,
            "applications.classifier.train: last_blocks does nothing without LoRA; name lora, or delete last_blocks",
        ),
        (
            "applications.guard.train.last_blocks",
            17,
            "applications.guard.train: last_blocks 17 is more than layers 16",
        ),
    ],
)
def test_values_that_do_not_go_together_are_named_with_their_section(
    tmp_path: Path, key: str, value: object, mistake: str
) -> None:
    path = write_params(tmp_path, {key: value})
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path}: {mistake}')}$"):
        check_params(path)


def test_mistakes_of_a_block_are_all_named(tmp_path: Path) -> None:
    path = write_params(tmp_path, {f"{TRAIN}.steps": "many"})
    path.write_text(path.read_text().replace("learning_rate", "lerning_rate"))
    with pytest.raises(ValueError, match=r"foundation\.train\.steps: input should") as caught:
        load_application("foundation", path)
    mistakes = [line.removeprefix(f"{path}: foundation.train.") for line in str(caught.value).splitlines()]
    assert mistakes[1:] == [
        "learning_rate: missing",
        "lerning_rate: unknown key; did you mean learning_rate?",
        "muon_lerning_rate: unknown key; did you mean muon_learning_rate?",
    ]


def test_published_weights_are_needed_only_where_something_starts_from_them(tmp_path: Path) -> None:
    path = write_params(tmp_path, {"published": GONE})
    with pytest.raises(ValueError) as caught:
        check_params(path)
    blocks = ("applications.assistant", "applications.classifier", "applications.guard", "replay.assistant")
    others = ", ".join(model_names(path))
    assert sorted(str(caught.value).splitlines()) == [
        f"{path}: {block}.base: 'published' is not one of {others}" for block in blocks
    ]
    changes = dict.fromkeys([f"{block}.base" for block in blocks], "foundation")
    fewer_layers = {f"applications.{name}.train.layers": 3 for name in ("classifier", "guard")}
    fewer_layers |= {f"applications.{name}.train.last_blocks": 2 for name in ("classifier", "guard")}
    check_params(write_params(tmp_path, {"published": GONE, "smoke": GONE} | changes | fewer_layers))


def test_outline_names_a_glob_that_fits_no_source(tmp_path: Path) -> None:
    key = "datasets.emails.preprocess.train_only"
    path = write_params(tmp_path, {key: ["*/spam", "everyday-mial/*"]})
    mistake = f"{path}: {key}: 'everyday-mial/*' fits no source; they are datasets-spam-assassin/, "
    with pytest.raises(ValueError, match=f"^{re.escape(mistake)}"):
        check_outline(path)
    globs = ["written here", "first-words/*.jsonl"]
    check_outline(write_params(tmp_path, {"datasets.instructions.preprocess.train_only": globs}))


def test_outline_names_a_missing_section(tmp_path: Path) -> None:
    path = write_params(tmp_path, {"foundation": GONE})
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path}: foundation: missing')}$"):
        check_outline(path)


def test_stage_reads_its_own_block_alone(tmp_path: Path) -> None:
    path = write_params(tmp_path, {f"{TRAIN}.steps": "many", "applications.classifier.evaluate.batch_size": "many"})
    assert load_training("classifier", path).train.layers == 8
    assert load_dataset("emails", path).preprocess.seed == 1


def test_gates_may_be_left_out(tmp_path: Path) -> None:
    gates = load_application("classifier", OURS).review
    assert gates.at_most["false_positive_rate"] == 0.03
    assert "f1" in gates.no_loss
    path = write_params(tmp_path, {"applications.classifier.review": GONE})
    assert load_application("classifier", path).review == Gates()


@pytest.mark.parametrize("model", model_names(OURS))
def test_gates_of_params_yaml_ask_for_what_the_evaluation_measures(project: Path, model: str) -> None:
    """Otherwise such a gate would leave every challenger to a person."""
    gates = load_application(model, OURS).review
    metrics = json.loads((project / f"reports/evaluation/{model}/metrics.json").read_text())
    compared = {*gates.no_loss, *gates.ahead}
    assert {*gates.at_least, *gates.at_most, *compared} <= metrics.keys()
    assert {f"baseline_{metric}" for metric in compared} <= metrics.keys()  # for the first champion
    assert {f"{metric}_gain" for metric in gates.ahead} <= metrics.keys()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"foundation: [1, 2", "params.yaml, row 2: not YAML"),
        (b"", "params.yaml: holds nothing, not sections"),
        (b"a: {{ x }}", "params.yaml, row 1: {'x': None} is no key"),
        (b"datasets: {}\nfoundation: {}\ndatasets: {}", "params.yaml, row 3: datasets stands here and in row 1"),
        ("datasets: Zoë".encode("latin-1"), "params.yaml: byte 0xeb is not UTF-8; save the file as UTF-8"),
        (b"a: " + b"[" * 5000, "params.yaml"),
        (b"<<<<<<< ours\na: 1\n=======\na: 2\n>>>>>>> theirs\n", "params.yaml, row "),
    ],
)
def test_corrupt_file_is_named_with_row_and_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=reason) as caught:
        check_params(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"params\.yaml: there is no such file"):
        check_params(tmp_path / "params.yaml")


def test_bounds_of_a_number_are_those_that_are_given(tmp_path: Path) -> None:
    key = "datasets.emails.preprocess.gates"
    path = write_params(tmp_path, {key: {"duplicate_share": {"fail": 0.9}}})
    gates = load_dataset("emails", path).preprocess.gates
    assert gates == DataGates(duplicate_share={"fail": 0.9})
    path = write_params(tmp_path, {key: {"duplicate_share": {"wran": 0.9}}})
    with pytest.raises(ValueError, match=r"gates\.duplicate_share\.wran: unknown key; did you mean warn\?"):
        load_dataset("emails", path)


def test_values_cannot_be_changed_after_loading() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_application("foundation", OURS).train.steps = 5


def undocumented_fields(model: type[BaseModel]) -> list[str]:
    """The fields of a class, and of the classes of its fields, that have no docstring."""
    names: list[str] = []
    for name, field in model.model_fields.items():
        kind = getattr(field.annotation, "__args__", (field.annotation,))[0]
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            names += undocumented_fields(kind)
        elif not field.description:
            names.append(f"{model.__name__}.{name}")
    return names


def test_every_field_has_a_description() -> None:
    models = [find_dataset(name).Params for name in dataset_names(OURS)]
    models += [find_training(name).train for name in model_names(OURS)]
    models += [find_evaluation(name).params for name in model_names(OURS)]
    for model in [Gates, *models]:
        assert undocumented_fields(model) == []
