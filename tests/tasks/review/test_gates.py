import json
import shutil
from math import log
from pathlib import Path

import pandas as pd
import pytest
from dvc.repo import Repo
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from tasks.registry.record import Record, write_record
from tasks.review.challenger import Reviewed
from tasks.review.comparison import Comparison, version_of
from tasks.review.gates import Gate, Gates, check
from tasks.review.metrics import Difference, Metric
from tasks.stages.hashes import Hashes, md5_of

CLEAN = {
    **{f"git.dirty.{part}": "false" for part in ("code", "params.yaml", "dvc.yaml")},
    "git.commit": "0123456789abcdef",
    "run.training": "r1",
}
HASHES = Hashes({}, {"data/processed/emails": "d1.dir"}, {"models/classifier": "m1.dir"})
METRICS = {
    "f1": Metric("f1", 0.97, 0.96, 0.98, 0.9, Difference(0.07, 0.05, 0.09), 0.96, 0.97, Difference(0.01, -0.01, 0.03)),
    "recall": Metric("recall", 0.9, champion=0.95, to_champion=Difference(-0.05, -0.08, -0.02)),
    "calibration_error": Metric("calibration_error", 0.02),
    "response_loss": Metric("response_loss", 0.5, champion=0.4, to_champion=Difference(0.1)),
}


def version(number: str = "2", hashes: Hashes = HASHES, facts: dict[str, str] = CLEAN) -> ModelVersion:
    """A version with a record in the store."""
    run = MlflowClient().create_run("0")
    write_record(run.info.run_id, Record("register", hashes, facts))
    return ModelVersion("threestage-classifier", number, 0, run_id=run.info.run_id)


def comparison(champion: bool = True, **values: object) -> Comparison:
    known = {"checked": 16, "agreed": 15, "unit": "mails", "metrics": METRICS, "main": "f1"} | values
    return Comparison("classifier", "threestage-classifier", version(), version("1") if champion else None, **known)


def found(gates: Gates, **values: object) -> dict[str, Gate]:
    return {gate.name: gate for gate in check(comparison(**values), gates)}


@pytest.mark.parametrize(
    ("gates", "name", "passed", "said"),
    [
        (Gates(at_least={"f1": 0.97}), "f1 at least 0.97", True, "0.97"),
        (Gates(at_least={"f1": 0.971}), "f1 at least 0.971", False, "0.97"),
        (Gates(at_least={"f2": 0.5}), "f2 at least 0.5", None, "this version has no metric f2"),
        (Gates(at_most={"calibration_error": 0.02}), "calibration_error at most 0.02", True, "0.02"),
        (Gates(at_most={"response_loss": 0.6}), "response_loss at most 0.6", True, "0.5"),
        (
            Gates(no_loss=("f1",)),
            "no sure loss of f1 against the champion",
            True,
            "no clear difference: +0.0100 (95 % interval -0.0100 to +0.0300)",
        ),
        (
            Gates(no_loss=("recall",)),
            "no sure loss of recall against the champion",
            False,
            "worse: -0.0500 (95 % interval -0.0800 to -0.0200)",
        ),
        (
            Gates(no_loss=("response_loss",)),
            "no sure loss of response_loss against the champion",
            None,
            "+0.1000, without an interval",
        ),
        (
            Gates(no_loss=("calibration_error",)),
            "no sure loss of calibration_error against the champion",
            None,
            "the champion has no calibration_error",
        ),
        (
            Gates(no_loss=("f2",)),
            "no sure loss of f2 against the champion",
            None,
            "this version has no metric f2",
        ),
    ],
)
def test_a_gate_says_what_it_asks_and_what_was_found(files, gates, name, passed, said):
    assert found(gates)[name] == Gate(name, passed, said)


def test_without_a_champion_the_baseline_takes_its_place(files):
    gate = found(Gates(no_loss=("f1", "recall")), champion=False)
    name = "no sure loss of f1 against the baseline"
    assert gate[name] == Gate(name, True, "better: +0.0700 (95 % interval +0.0500 to +0.0900)")
    name = "no sure loss of recall against the baseline"
    assert gate[name] == Gate(name, None, "the baseline has no recall")


def test_why_there_is_no_difference_is_said(files):
    metrics = {"f1": Metric("f1", 0.9)}
    gate = found(Gates(no_loss=("f1",)), metrics=metrics, incomparable="models:/a/1 gives no answers: no such file")
    assert gate["no sure loss of f1 against the champion"].said == "models:/a/1 gives no answers: no such file"


@pytest.mark.parametrize(
    ("values", "passed", "said"),
    [
        ({}, True, "16 mails, 15 of them scored as in its evaluation"),
        ({"unanswered": 3, "agreed": None}, True, "16 mails; 3 without an answer"),
        ({"failed": "it ended with 1"}, False, "it ended with 1"),
        ({"checked": 0}, None, "nothing says which rows to ask: there is no tasks/applications/classifier/review.py"),
    ],
)
def test_a_version_must_answer(files, values, passed, said):
    name = "the code that it ships answers"
    assert found(Gates(), **values)[name] == Gate(name, passed, said)


def test_speed_is_no_gate(files):
    names = found(Gates(), seconds={"challenger": 9.0})
    assert not [name for name in names if "second" in name]
    assert found(Gates(at_most={"seconds_a_row": 1.0}))["seconds_a_row at most 1"].passed is None


@pytest.fixture
def files(reviewed_files, mlflow_store, tmp_path, monkeypatch) -> Path:
    """A copy of the project's files, to change, with a store."""
    monkeypatch.chdir(shutil.copytree(reviewed_files, tmp_path / "project"))
    lock = Path("dvc.lock")
    lock.write_text(lock.read_text().replace(md5_of(Path("data/processed/emails")), "d1.dir"))
    return Path.cwd()


def quality() -> Gate:
    return found(Gates())["its data passed the checks"]


def drifted(*data: str | None, most: float = 0.25) -> Gate:
    """The gate of a challenger and a champion that learned from data of these hashes."""
    hashes = [Hashes({}, {} if md5 is None else {"data/processed/emails": md5}, {}) for md5 in data]
    made = [version(number, each) for number, each in zip("21", hashes, strict=False)]
    against = Comparison("classifier", "threestage-classifier", made[0], made[1], {})
    (gate,) = (gate for gate in check(against, Gates(drift=most)) if gate.name.startswith("its data moved"))
    assert gate.name == f"its data moved at most {most:g} from the champion's"
    return gate


@pytest.fixture
def cached(files) -> dict[str, str]:
    """Rows in DVC's cache, by name their hash; `now` is here, too. Half of `now` are spam, and a fifth of `before`."""
    found, folder = {}, Path("data/processed/emails")
    Repo.init(no_scm=True).close()
    for name, spam, times in (("few", 2, 1), ("before", 2, 20), ("now", 5, 20)):
        labels = (["spam"] * spam + ["ham"] * (10 - spam)) * times
        rows = pd.DataFrame({"id": range(len(labels)), "body": "win a prize", "label": labels})
        rows.to_parquet(folder / "train.parquet")
        with Repo() as repo:
            repo.add(str(folder))
        found[name] = md5_of(folder)
    return found


def test_data_that_is_the_champions_has_not_moved(files):
    gate = drifted("d1.dir", "d1.dir")
    assert (gate.passed, gate.said) == (True, "the same emails")
    assert not [gate for gate in check(comparison(), Gates()) if "moved" in gate.name]


def test_without_a_champion_nothing_can_have_moved(files):
    first = Comparison("classifier", "threestage-classifier", version("2", Hashes({}, {}, {})), None, {})
    assert not [gate for gate in check(first, Gates(drift=0.25)) if "moved" in gate.name]


def test_data_that_moved_is_named_with_its_property_and_number(cached):
    index = 0.3 * log(0.5 / 0.2) - 0.3 * log(0.5 / 0.8)
    gate = drifted(cached["now"], cached["before"])
    assert (gate.passed, gate.said) == (False, f"emails: label {index:.3f}")
    gate = drifted(cached["before"], cached["now"], most=0.5)  # whose rows do not lie here
    assert (gate.passed, gate.said) == (True, f"emails: label {index:.3f}, the most of 3")


def test_of_few_rows_nobody_can_tell_whether_they_moved(cached):
    gate = drifted(cached["now"], cached["few"])
    assert (gate.passed, gate.said) == (None, "emails: 10 rows are too few to tell, at least 200 are")


def test_data_of_which_the_rows_are_gone_or_that_is_another_dataset_is_not_known(cached):
    gate = drifted(cached["now"], "d1.dir")
    way_out = "the rows are not in DVC's cache; `dvc fetch --all-commits` brings what a remote has"
    assert (gate.passed, gate.said) == (None, f"the champion's emails (d1.dir): {way_out}")
    gate = drifted(None, "d1.dir")
    assert (gate.passed, gate.said) == (None, "the data of the challenger is not known")


def test_data_that_passed_its_checks_passes(files):
    assert quality() == Gate("its data passed the checks", True, "1 checks of emails")


def test_data_that_failed_a_check_does_not(files):
    check = {"column": "label", "expectation": "expect_column_values_to_be_in_set", "success": False}
    report = Path("reports/quality/emails/validation.json")
    report.write_text(json.dumps({"success": False, "expectations": [check]}))
    assert (quality().passed, quality().said) == (False, "label: expect_column_values_to_be_in_set")


def test_data_that_only_warns_passes_and_says_so(files):
    check = {"column": "rows_of_spam", "expectation": "expect_column_max_to_be_between", "success": False}
    report = Path("reports/quality/emails/validation.json")
    report.write_text(json.dumps({"success": True, "expectations": [check | {"level": "warn"}]}))
    said = "1 checks of emails, with warnings: rows_of_spam: expect_column_max_to_be_between"
    assert quality() == Gate("its data passed the checks", True, said)


def test_data_of_which_nothing_is_known_here_is_not_known(files):
    Path("reports/quality/emails/validation.json").unlink()
    assert quality().passed is None
    assert "run `dvc pull reports/quality/emails` or `dvc repro`" in quality().said
    lock = Path("dvc.lock")
    lock.write_text(lock.read_text().replace("d1.dir", "d2.dir"))
    assert (quality().passed, quality().said) == (
        None,
        "it learned from data/processed/emails d1.dir, and d2.dir is here",
    )
    lock.unlink()
    assert (quality().passed, quality().said) == (
        None,
        "dvc.lock: stage preprocess@emails never ran; run `dvc repro`",
    )


NOTHING = Hashes({}, {}, {})


@pytest.mark.parametrize(
    ("hashes", "facts", "passed", "said"),
    [
        (HASHES, CLEAN, True, "commit 0123456789, and every hash"),
        (HASHES, CLEAN | {"git.dirty.code": "true"}, False, "not in git: code"),
        (HASHES, CLEAN | {"git.dirty.code": "unknown", "uncommitted": "not in git: a.py"}, False, "not in git: a.py"),
        (HASHES, CLEAN | {"run.training": "none"}, False, "missing: the run that trained it"),
        (NOTHING, CLEAN, False, "missing: the hash of its weights, the hash of its data"),
        (HASHES, {}, False, "no git commit is known; missing: the run that trained it"),
    ],
)
def test_a_lineage_with_a_gap_does_not_pass(files, hashes, facts, passed, said):
    gates = check(Comparison("classifier", "threestage-classifier", version("2", hashes, facts), None, {}), Gates())
    assert next(gate for gate in gates if gate.name == "its lineage is complete") == Gate(
        "its lineage is complete", passed, said
    )


def test_a_version_without_a_card_does_not_pass(files):
    assert found(Gates())["its model card is there"] == Gate(
        "its model card is there", False, "its run has no card/card.html"
    )


def test_only_gates_that_were_computed_and_held_pass_and_what_is_not_known_is_no_failure():
    good, bad, unknown = (Gate(str(passed), passed, "") for passed in (True, False, None))

    def reviewed(*gates: Gate) -> Reviewed:
        return Reviewed("classifier", "2", "1", gates, "", "", "")

    assert reviewed(good, good).passed
    assert not reviewed(good, bad).passed
    assert not reviewed(good, unknown).passed
    assert (reviewed(good, unknown).failed, reviewed(good, unknown, bad).unknown) == ([], ["None"])


@pytest.mark.slow
def test_a_version_of_the_registry_with_a_card_passes(in_project):
    versions = [version_of("threestage-classifier", number) for number in "12"]
    gates = check(Comparison("classifier", "threestage-classifier", *versions, {}), Gates())
    assert gates[-1] == Gate("its model card is there", True, "card/card.html")
