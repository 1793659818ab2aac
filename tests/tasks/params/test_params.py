import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from tasks.data.gates import Gates as DataGates
from tasks.params.blocks import Gates
from tasks.params.load import check_outline, check_params, load_application, load_dataset, load_published_name
from tasks.params.slices import find_dataset, find_evaluation, find_training
from tasks.stages.names import application_names, dataset_names, model_names

OURS = Path(__file__).parents[3] / "params.yaml"
GONE = object()
TRAIN = "foundation.train"


@pytest.fixture(scope="module")
def values() -> dict[str, Any]:
    return yaml.safe_load(OURS.read_text())


@pytest.fixture
def written(values, tmp_path):
    """params.yaml with one key set to another value, or gone."""

    def write(key: str, value: Any) -> Path:
        changed = copy.deepcopy(values)
        *parents, last = [int(part) if part.isdigit() else part for part in key.split(".")]
        place = changed
        for part in parents:
            place = place[part]
        if value is GONE:
            del place[last]
        else:
            place[last] = value
        path = tmp_path / "params.yaml"
        path.write_text(yaml.safe_dump(changed))
        return path

    return write


def test_our_own_file_loads_and_means_what_it_says(values):
    check_params(OURS)
    foundation = load_application("foundation", OURS)
    assert foundation.train.learning_rate == values["foundation"]["train"]["learning_rate"]
    assert foundation.evaluate.sample_prompts == tuple(values["foundation"]["evaluate"]["sample_prompts"])
    assert foundation.train.gpt(300).vocabulary_size == 300
    assert load_dataset("emails", OURS).sources[0].sha256 == values["datasets"]["emails"]["sources"][0]["sha256"]
    assert dataset_names(OURS) == list(values["datasets"])
    assert application_names(OURS) == list(values["applications"])
    assert load_published_name(OURS) == values["published"]
    assert model_names(OURS) == ["foundation", *values["applications"]]


def test_our_own_file_leaves_no_value_to_a_default(values):
    """A change of a default would otherwise change results that DVC takes for fresh.

    Bounds of data are in a file that is a dep of their stage.
    """

    def missing(model: BaseModel, given: Any, place: str) -> list[str]:
        found = []
        for name in type(model).model_fields:
            inner = getattr(model, name)
            if name not in given:
                found.append(f"{place}{name}")
            elif isinstance(inner, BaseModel) and not isinstance(inner, DataGates):
                found += missing(inner, given[name], f"{place}{name}.")
        return found

    for name, block in values["datasets"].items():
        assert missing(load_dataset(name, OURS), block, "") == []
    for name, block in {"foundation": values["foundation"], **values["applications"]}.items():
        assert missing(load_application(name, OURS), block, "") == []


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        (f"{TRAIN}.learning_rate", "fast", "input should be a valid number.*, not 'fast'"),
        (f"{TRAIN}.steps", True, "input should be a valid integer.*, not True"),
        (f"{TRAIN}.lerning_rate", 1e-3, "unknown key; did you mean learning_rate?"),
        (f"{TRAIN}.xyzzy", 1, "unknown key$"),
        ("datasets.emails.sources.0.sha", "x", "unknown key; did you mean sha256?"),
        ("applications.assistant.evaluate.max_tokens", 1, "unknown key; did you mean max_new_tokens?"),
        (f"{TRAIN}.steps", GONE, "missing"),
        ("applications", GONE, "missing"),
        ("datasets.corpus.sources.0.sha256", "ABC", "string should match pattern.*, not 'ABC'"),
        ("datasets.corpus.sources.0.source", "ftp://a/b", "sources are npm:NAME@VERSION, .*, not 'ftp://a/b'"),
        ("datasets.emails.sources", [], r"list should have at least 1 item.*, not \[\]"),
        ("foundation.train.norm", "batch", "input should be 'layer' or 'rms', not 'batch'"),
        ("applications.classifier.review.at_last", {}, "unknown key; did you mean at_least?"),
        ("datasets.pictures", {}, "there is no tasks/datasets/pictures.py"),
        ("applications.classifier.base", "publishd", "'publishd' is not one of foundation, .*, published$"),
        (
            "applications.assistant.rehearses",
            "data/replay/clasifier.jsonl",
            "there is no data/replay/clasifier.jsonl; name",
        ),
        ("replay.assistant.base", "publishd", "'publishd' is not one of foundation, .*, published$"),
        (
            "replay.assistant.base",
            "assistant",
            "assistant itself rehearses these answers; name foundation or published",
        ),
        ("replay.assistant.prompts", "data/replays.jsonl", "there is no data/replays.jsonl"),
        (
            "replay.nothing",
            {"base": "published", "prompts": "data/replay.jsonl", "max_new_tokens": 9},
            "data/replay/noth",
        ),
        ("replay.assistant.sistem", "x", "unknown key; did you mean system?"),
        ("publishd", "x", "unknown key; did you mean published?"),
        ("published", 124, "124 is no name of weights"),
        (
            "applications.classifier.objective",
            "assistant",
            "tasks/applications/classifier/train.py has cl",
        ),
        ("applications.classifier.dataset", "mails", "'mails' is not one of corpus, emails, instructions"),
    ],
)
def test_a_mistake_is_one_line_that_names_file_key_and_reason(written, key, value, reason):
    path = written(key, value)
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path}: {key}')}: {reason}") as caught:
        check_params(path)
    assert "\n" not in str(caught.value)


def test_published_weights_need_a_name_only_where_something_starts_from_them(written):
    path = written("published", GONE)
    others = ", ".join(model_names(path))
    with pytest.raises(ValueError) as caught:
        check_params(path)
    assert sorted(str(caught.value).splitlines()) == [
        f"{path}: {place}.base: 'published' is not one of {others}"
        for place in ("applications.assistant", "applications.classifier", "applications.guard", "replay.assistant")
    ]
    values = yaml.safe_load(path.read_text())
    for block in (*values["applications"].values(), *values["replay"].values()):
        block["base"] = "foundation"
    for classifier in ("classifier", "guard"):
        values["applications"][classifier]["train"]["layers"] = None
    del values["smoke"]
    path.write_text(yaml.safe_dump(values))
    check_params(path)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        (f"{TRAIN}.n_head", 3, "foundation.train: n_embd 128 is not a multiple of n_head 3"),
        (
            "datasets.emails.preprocess.validation",
            0.8,
            "datasets.emails.preprocess: validation 0.8 + test 0.2 leave nothing for train",
        ),
    ],
)
def test_values_that_do_not_go_together_are_named_with_their_section(written, key, value, reason):
    path = written(key, value)
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path}: {reason}')}$"):
        check_params(path)


def test_what_would_stop_a_run_in_its_middle_is_said_without_a_dataset_or_a_model(written):
    path = written("datasets.emails.preprocess.train_only", ["*/spam", "everyday-mial/*"])
    reason = (
        "datasets.emails.preprocess.train_only: 'everyday-mial/*' fits no source; they are datasets-spam-assassin/, "
    )
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path}: {reason}')}"):
        check_outline(path)
    check_outline(written("datasets.instructions.preprocess.train_only", ["written here", "first-words/*.jsonl"]))
    path = written("foundation", GONE)
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path}: foundation: missing')}$"):
        check_outline(path)


def test_several_mistakes_of_a_block_are_all_named(written):
    path = written(f"{TRAIN}.steps", "many")
    path.write_text(path.read_text().replace("learning_rate", "lerning_rate"))
    with pytest.raises(ValueError, match=r"foundation\.train\.steps: input should") as caught:
        load_application("foundation", path)
    assert [line.removeprefix(f"{path}: foundation.train.") for line in str(caught.value).splitlines()[1:]] == [
        "learning_rate: missing",
        "lerning_rate: unknown key; did you mean learning_rate?",
        "muon_lerning_rate: unknown key; did you mean muon_learning_rate?",
    ]


def test_a_gate_that_is_no_number_is_named(written):
    path = written("applications.classifier.review.at_least", {"f1": "high"})
    place = re.escape(f"{path}: applications.classifier.review.at_least.f1")
    with pytest.raises(ValueError, match=f"^{place}: input should be a valid number.*, not 'high'$"):
        check_params(path)


def test_gates_are_read_and_may_be_left_out(written):
    gates = load_application("classifier", OURS).review
    assert gates.at_most["false_positive_rate"] == 0.03
    assert "f1" in gates.no_loss
    assert load_application("classifier", written("applications.classifier.review", GONE)).review == Gates()
    assert Gates() == Gates(at_least={}, at_most={}, no_loss=(), ahead=())


def test_our_own_gates_ask_for_what_the_committed_evaluations_measure(values):
    """A gate that nothing could pass, or that asks for a metric that nobody measures, would stop every challenger."""
    failed = set()
    for name in model_names(OURS):
        gates = load_application(name, OURS).review
        metrics = json.loads((OURS.parent / f"reports/evaluation/{name}/metrics.json").read_text())
        failed |= {(name, metric) for metric, least in gates.at_least.items() if metrics[metric] < least}
        failed |= {(name, metric) for metric, most in gates.at_most.items() if metrics[metric] > most}
        failed |= {(name, metric) for metric in gates.no_loss if metrics.get(f"{metric}_gain_high", 0) < 0}
        failed |= {(name, metric) for metric in gates.ahead if metrics[f"{metric}_gain_low"] <= 0}
        assert {*gates.no_loss, *gates.ahead} <= {*metrics}
        assert all(f"baseline_{metric}" in metrics for metric in gates.no_loss)  # for the first champion
    assert failed == set()


def test_a_stage_reads_its_own_block_alone(written):
    path = written(f"{TRAIN}.steps", "many")
    assert load_application("classifier", path).train.layers == 8
    assert load_dataset("emails", path).preprocess.seed == 1


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
def test_a_file_that_is_no_mapping_is_named(tmp_path, content, reason):
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=reason) as caught:
        check_params(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(OSError, match=r"params\.yaml: there is no such file"):
        check_params(tmp_path / "params.yaml")


def test_a_bound_of_data_that_is_given_leaves_the_others(written):
    gates = load_dataset("emails", written("datasets.emails.preprocess.gates", {"duplicate_share": {"fail": 0.9}}))
    assert gates.preprocess.gates == DataGates(duplicate_share={"warn": 0.3, "fail": 0.9})
    assert gates.preprocess.gates.rows_of_a_label == DataGates().rows_of_a_label
    with pytest.raises(ValueError, match=r"gates\.duplicate_share\.wran: unknown key; did you mean warn\?"):
        load_dataset("emails", written("datasets.emails.preprocess.gates", {"duplicate_share": {"wran": 0.9}}))


def test_values_cannot_be_changed_after_loading():
    with pytest.raises(ValueError, match="frozen"):
        load_application("foundation", OURS).train.steps = 5


def test_every_field_says_what_it_means():
    def fields(model: type[BaseModel], place: str):
        for name, field in model.model_fields.items():
            inner = field.annotation
            inner = getattr(inner, "__args__", (inner,))[0]
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from fields(inner, f"{place}{name}.")
            else:
                yield f"{place}{name}", field.description

    sections = {name: find_dataset(name).params for name in dataset_names(OURS)}
    for name in model_names(OURS):
        sections |= {f"{name}.train": find_training(name).train, f"{name}.evaluate": find_evaluation(name).params}
    sections["review"] = Gates
    for place, model in sections.items():
        assert [name for name, meaning in fields(model, f"{place}.") if not meaning] == []
