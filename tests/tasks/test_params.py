"""All mistakes of params.yaml at once, each with file, key and value; stages that read their own block; `run --set`."""

import difflib
import json
import subprocess
import sys

import pytest
import yaml
from params_files import GONE, OURS, write_params
from projects import ROOT

from llm.errors import UserError
from tasks.params import (
    check_classes,
    check_params,
    load_block,
    load_dataset,
    load_evaluation,
    load_published_name,
    load_training,
    schema_text,
    set_params,
)
from tasks.stages.names import application_names, dataset_names, model_names
from tasks.stages.yaml_text import read_yaml

TRAIN = "foundation.train"
CLASSIFIER = "applications.classifier"
ASSISTANT = "applications.assistant"
VALUES = yaml.safe_load(OURS.read_text())


def mistakes(path):
    """The mistakes of a file, without its name."""
    with pytest.raises(UserError) as caught:
        check_params(path)
    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"{path}: ") for line in lines)
    return [line.removeprefix(f"{path}: ") for line in lines]


def test_params_yaml_is_valid_and_parsed():
    check_params(OURS)
    check_classes(VALUES, OURS)
    train = load_training("foundation", OURS).train
    assert train.learning_rate == VALUES["foundation"]["train"]["learning_rate"]
    assert load_published_name(OURS) == VALUES["published"]
    assert dataset_names(OURS) == list(VALUES["datasets"])
    assert model_names(OURS) == ["foundation", *application_names(OURS)]


def test_committed_schema_is_that_of_the_classes():
    assert (ROOT / "params.schema.json").read_text() == schema_text(read_yaml(OURS))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        (f"{TRAIN}.learning_rate", "fast", ["fast"]),
        (f"{TRAIN}.steps", True, ["True"]),
        (f"{TRAIN}.lerning_rate", 1e-3, ["lerning_rate"]),
        (f"{TRAIN}.norm", "batch", ["batch", "rms"]),
        (f"{TRAIN}.steps", GONE, ["steps"]),
        ("published", "smollm3", ["smollm3", "smollm2-135m"]),
        ("datasets.emails.sources", [], ["datasets.emails.sources"]),
        ("datasets.corpus.sources.0.sha256", "ABC", ["ABC"]),
        ("datasets.corpus.sources.0.source", "ftp://a/b", ["ftp://a/b", "npm:NAME@VERSION"]),
        ("datasets.emails.preprocess.train_only", ["everyday-mial/*"], ["everyday-mial/*", "everyday-mail/"]),
        (f"{ASSISTANT}.train.twice", ["general-answer/*"], ["general-answer/*", "general-answers/"]),
        (f"{CLASSIFIER}.base", "publishd", ["publishd", "published"]),
        (f"{CLASSIFIER}.dataset", "mails", ["mails", "emails"]),
        (f"{CLASSIFIER}.dataset", "instructions", ["instructions", "labels"]),
        (f"{CLASSIFIER}.objective", "assistant", ["assistant"]),
        (f"{ASSISTANT}.rehearses", "data/none.jsonl", ["data/none.jsonl"]),
        ("replay.assistant.prompts", "data/none.jsonl", ["data/none.jsonl"]),
    ],
)
def test_mistake_is_named_with_its_key_and_value(tmp_path, key, value, words):
    named = "\n".join(mistakes(write_params(tmp_path, {key: value})))
    assert key.rpartition(".")[0] in named
    assert all(word in named for word in words)


def test_mistakes_of_all_blocks_are_named_at_once(tmp_path):
    changes = {f"{TRAIN}.steps": "many", f"{CLASSIFIER}.base": "none", "datasets.emails.preprocess.validation": "x"}
    lines = mistakes(write_params(tmp_path, changes))
    assert {line.partition(": ")[0] for line in lines} == set(changes)


def test_check_imports_no_library_of_models_or_engines():
    code = "import sys; from tasks.params import check_params; check_params(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"torch", "pandas", "prefect", "mlflow", "dvc"} & {*done.stdout.split()}


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        (f"{TRAIN}.n_head", 3, ["n_embd 128", "n_head 3"]),
        (f"{TRAIN}.optimizer", "adamw", ["muon_learning_rate"]),
        ("datasets.emails.preprocess.validation", 0.8, ["validation 0.8", "test 0.2"]),
        (f"{CLASSIFIER}.train.lora", None, ["last_blocks"]),
        ("applications.guard.train.last_blocks", 17, ["last_blocks 17", "layers 16"]),
    ],
)
def test_values_that_do_not_go_together_are_named(tmp_path, key, value, words):
    path = write_params(tmp_path, {key: value})
    with pytest.raises(UserError) as caught:
        check_classes(read_yaml(path), path)
    assert all(word in str(caught.value) for word in [str(path), *words])


def test_stage_reads_its_own_block_alone(tmp_path):
    path = write_params(tmp_path, {f"{TRAIN}.steps": "many", f"{CLASSIFIER}.evaluate.batch_size": "many"})
    assert load_training("classifier", path).train.layers == 8
    assert load_dataset("emails", path).preprocess.seed == 1
    with pytest.raises(UserError, match="many"):
        load_evaluation("classifier", path)


def test_blocks_without_a_file_are_named(tmp_path):
    path = write_params(tmp_path, {"datasets.pictures": {}, "applications.quiz": {}})
    with pytest.raises(UserError, match=r"tasks/data/pictures\.py"):
        load_dataset("pictures", path)
    with pytest.raises(UserError, match=r"tasks/applications/quiz/train\.py"):
        load_training("quiz", path)


@pytest.mark.parametrize("model", model_names(OURS))
def test_gates_of_params_yaml_ask_for_what_the_evaluation_measures(project, model):
    """Otherwise such a gate would leave every challenger to a person."""
    gates = load_block(model, OURS).review
    metrics = json.loads((project / f"reports/evaluation/{model}/metrics.json").read_text())
    compared = {*gates.no_loss, *gates.ahead}
    assert {*gates.at_least, *gates.at_most, *compared} <= metrics.keys()
    assert {f"baseline_{metric}" for metric in compared} <= metrics.keys()  # for the first champion
    assert {f"{metric}_gain" for metric in gates.ahead} <= metrics.keys()


@pytest.mark.parametrize(
    ("content", "row"),
    [
        (b"foundation: [1, 2", ", row 2"),
        (b"", ""),
        (b"a: {{ x }}", ", row 1"),
        (b"datasets: {}\nfoundation: {}\ndatasets: {}", ", row 3"),
        ("datasets: Zoë".encode("latin-1"), ""),
        (b"a: " + b"[" * 5000, ""),
        (b"<<<<<<< ours\na: 1\n=======\na: 2\n>>>>>>> theirs\n", ", row "),
    ],
)
def test_corrupt_file_is_named_with_its_row(tmp_path, content, row):
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        check_params(path)
    assert str(caught.value).startswith(f"{path}{row}")
    assert "\n" not in str(caught.value)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_bytes(OURS.read_bytes())
    return path


def changed_lines(path):
    """The lines that are gone or new."""
    diff = difflib.ndiff(OURS.read_text().splitlines(), path.read_text().splitlines())
    return [line for line in diff if line[0] in "+-"]


@pytest.mark.parametrize(
    ("setting", "lines"),
    [
        (f"{ASSISTANT}.train.learning_rate=0.002", ["-       learning_rate: 2.5e-3", "+       learning_rate: 0.002"]),
        (f"{ASSISTANT}.train.dropout=0.1", ["+       dropout: 0.1"]),
        (f"{ASSISTANT}.train.twice=[]", ["-       twice: [general-answers/*]", "+       twice: []"]),
        (
            "applications.guard.review.at_most.false_positive_rate=0.06",
            [
                "-       at_most: {false_positive_rate: 0.05} # twins of harmful requests included",
                "+       at_most: {false_positive_rate: 0.06} # twins of harmful requests included",
            ],
        ),
        ("foundation.review.at_most.bits_per_byte=1.6", ["+     at_most:", "+       bits_per_byte: 1.6"]),
    ],
)
def test_set_params_changes_its_own_line(path, setting, lines):
    set_params([setting], path)
    assert sorted(changed_lines(path)) == sorted(lines)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        (["foundation.train.steps=many"], "many"),
        (["foundatoin.train.seed=2"], "foundatoin"),
        (["foundation.train.seed=2", f"{CLASSIFIER}.base=none"], "none"),
        (["steps"], "KEY=VALUE"),
        (["a=[1"], "[1"),
        (["foundation.train.steps.fast=1"], "fast"),
        (["datasets.corpus.sources.9.licence=MIT"], "9"),
    ],
)
def test_set_params_rejects_a_wrong_value_and_writes_nothing(path, settings, word):
    with pytest.raises(UserError) as error:
        set_params(settings, path)
    assert word in str(error.value)
    assert path.read_bytes() == OURS.read_bytes()
    assert [file.name for file in path.parent.iterdir()] == ["params.yaml"]
