from math import log
from pathlib import Path

import pandas as pd
import pytest
from dvc.repo import Repo
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from tasks.params import Gates
from tasks.registry.record import Record, write_record
from tasks.review.challenger import Reviewed
from tasks.review.comparison import Comparison, version_of
from tasks.review.gates import Gate, check
from tasks.review.metrics import Difference, Metric
from tasks.stages.hashes import Hashes, md5_of
from tests.tasks.review.conftest import WHOLE

EMAILS = "data/processed/emails"
HASHES = Hashes({}, {EMAILS: "d1.dir"}, {"models/classifier": "m1.dir"})
METRICS = {
    "f1": Metric(
        "f1",
        0.97,
        low=0.96,
        high=0.98,
        baseline=0.9,
        to_baseline=Difference(0.07, 0.05, 0.09),
        champion=0.96,
        paired=0.97,
        to_champion=Difference(0.01, -0.01, 0.03),
    ),
    "recall": Metric("recall", 0.9, champion=0.95, to_champion=Difference(-0.05, -0.08, -0.02)),
    "calibration_error": Metric("calibration_error", 0.02),
    "response_loss": Metric("response_loss", 0.5, champion=0.4, to_champion=Difference(0.1)),
}

pytestmark = pytest.mark.slow


@pytest.fixture
def compared(in_project) -> Comparison:
    """A comparison of two registered versions with metrics that are made up."""
    return Comparison(
        model="classifier",
        challenger=version_of("threestage-classifier", "2"),
        champion=version_of("threestage-classifier", "1"),
        metrics=METRICS,
        main="f1",
        unit="mails",
        checked=16,
        agreed=15,
    )


def version(hashes: Hashes, facts: dict[str, str] = WHOLE) -> ModelVersion:
    """A version with a record in the store, and no card."""
    run = MlflowClient().create_run("0")
    write_record(run.info.run_id, Record("register", hashes, facts))
    return ModelVersion("threestage-classifier", "2", 0, run_id=run.info.run_id)


def finding_of(comparison: Comparison, name: str, **gates: object) -> tuple[bool | None, str]:
    """Whether a comparison passes the gate of that name, and its finding."""
    (gate,) = [gate for gate in check(comparison, Gates.model_validate(gates)) if gate.name == name]
    return gate.passed, gate.finding


def changed_to(compared: Comparison, **values: object) -> Comparison:
    return Comparison(**{**vars(compared), **values})


@pytest.mark.parametrize(
    ("gates", "name", "passed", "finding"),
    [
        ({"at_least": {"f1": 0.97}}, "f1 at least 0.97", True, "0.97"),
        ({"at_least": {"f1": 0.971}}, "f1 at least 0.971", False, "0.97"),
        ({"at_least": {"f2": 0.5}}, "f2 at least 0.5", None, "this version has no metric f2"),
        ({"at_most": {"calibration_error": 0.02}}, "calibration_error at most 0.02", True, "0.02"),
        ({"at_most": {"response_loss": 0.4}}, "response_loss at most 0.4", False, "0.5"),
        ({"no_loss": ["f1"]}, "f1", True, "no clear difference: +0.01"),
        ({"no_loss": ["recall"]}, "recall", False, "worse: -0.05"),
        ({"no_loss": ["response_loss"]}, "response_loss", None, "+0.1"),
        ({"no_loss": ["calibration_error"]}, "calibration_error", None, "the champion has no calibration_error"),
        ({"no_loss": ["f2"]}, "f2", None, "this version has no metric f2"),
    ],
)
def test_gate_names_its_requirement_and_the_finding(compared, gates, name, passed, finding):
    if "no_loss" in gates:
        name = f"no sure loss of {name} against the champion"
    verdict, reason = finding_of(compared, name, **gates)
    assert verdict is passed
    assert reason.startswith(finding)


def test_no_loss_shows_interval_or_reason_and_takes_the_baseline_without_a_champion(compared):
    name = "no sure loss of f1 against the champion"
    assert finding_of(compared, name, no_loss=["f1"])[1].count("(95 % interval -0.01") == 1
    gone = changed_to(compared, metrics={"f1": Metric("f1", 0.9)}, incomparable="models:/a/1 gives no answers")
    assert finding_of(gone, name, no_loss=["f1"]) == (None, "models:/a/1 gives no answers")
    alone = changed_to(compared, champion=None)
    passed, finding = finding_of(alone, "no sure loss of f1 against the baseline", no_loss=["f1"])
    assert (passed, finding[:14]) == (True, "better: +0.070")
    name = "no sure loss of recall against the baseline"
    assert finding_of(alone, name, no_loss=["recall"]) == (None, "the baseline has no recall")


def test_loss_against_the_baseline_fails_beside_a_champion_that_is_as_bad(compared):
    worse = Metric(
        "f1",
        0.9,
        baseline=0.95,
        to_baseline=Difference(-0.05, -0.08, -0.02),
        champion=0.9,
        paired=0.9,
        to_champion=Difference(0.0, 0.0, 0.0),
    )
    as_bad = changed_to(compared, metrics={"f1": worse})
    assert finding_of(as_bad, "no sure loss of f1 against the champion", no_loss=["f1"]) == (True, "the same")
    passed, finding = finding_of(as_bad, "no sure loss of f1 against the baseline", no_loss=["f1"])
    assert (passed, finding[:13]) == (False, "worse: -0.050")


@pytest.mark.parametrize(
    ("difference", "passed"),
    [
        (Difference(0.07, 0.05, 0.09), True),
        (Difference(0.07, -0.05, 0.09), False),
        (Difference(0.0, 0.0, 0.0), False),
        (Difference(0.07), None),
        (None, None),
    ],
)
def test_lead_over_the_baseline_is_sure_if_its_interval_excludes_zero(compared, difference, passed):
    ahead = changed_to(compared, metrics={"f1": Metric("f1", 0.97, to_baseline=difference)})
    assert finding_of(ahead, "a sure lead of f1 over the baseline", ahead=["f1"])[0] is passed


@pytest.mark.parametrize(
    ("difference", "no_loss", "ahead"),
    [
        (Difference(0.07, 0.05, 0.09), (True, "better: +0.07"), (True, "better: +0.07")),
        (Difference(-0.05, -0.08, -0.02), (False, "worse: -0.05"), (False, "worse: -0.05")),
        (Difference(0.01, -0.02, 0.04), (True, "no clear difference: +0.01"), (False, "no clear difference: +0.01")),
        (Difference(0.0, 0.0, 0.0), (True, "the same"), (False, "the same")),
        (Difference(-0.05), (None, "-0.05"), (None, "-0.05")),
        (None, (None, "the baseline has no f1"), (None, "the baseline has no f1")),
    ],
    ids=["lead", "loss", "level", "same", "no_interval", "no_baseline"],
)
def test_first_version_is_held_against_the_baseline_by_no_loss_and_by_ahead(compared, difference, no_loss, ahead):
    metrics = {"f1": Metric("f1", 0.9, to_baseline=difference)}
    first = changed_to(compared, champion=None, metrics=metrics)
    for name, gates, expected in (
        ("no sure loss of f1 against the baseline", {"no_loss": ["f1"]}, no_loss),
        ("a sure lead of f1 over the baseline", {"ahead": ["f1"]}, ahead),
    ):
        passed, finding = finding_of(first, name, **gates)
        assert (passed, finding[: len(expected[1])]) == expected


@pytest.mark.parametrize(
    ("difference", "gates"),
    [
        (Difference(0.01, -0.02, 0.04), ["champion", "baseline"]),
        (Difference(-0.05), ["champion"]),
        (None, ["champion"]),
    ],
)
def test_no_loss_beside_a_champion_has_a_gate_against_the_baseline_if_that_has_an_interval(compared, difference, gates):
    metric = Metric("f1", 0.9, to_baseline=difference, champion=0.9, to_champion=Difference(0.0, 0.0, 0.0))
    names = [gate.name for gate in check(changed_to(compared, metrics={"f1": metric}), Gates(no_loss=["f1"]))]
    assert [name for name in names if "no sure loss" in name] == [
        f"no sure loss of f1 against the {against}" for against in gates
    ]


@pytest.mark.parametrize(
    ("values", "passed", "finding"),
    [
        ({}, True, "16 mails, 15 of them scored as in its evaluation"),
        ({"agreed": None}, True, "16 mails"),
        ({"failed": "it ended with 1"}, False, "it ended with 1"),
        ({"checked": 0}, None, "nothing says which rows to ask: tasks/applications/classifier/measure.py names none"),
    ],
)
def test_version_must_answer(compared, values, passed, finding):
    assert finding_of(changed_to(compared, **values), "the code that it ships answers") == (passed, finding)


def test_version_of_the_registry_has_these_gates_and_speed_is_none_of_them(compared):
    gates = check(changed_to(compared, seconds={"challenger": 9.0}), Gates(drift=0.25))
    assert gates == [
        Gate("the code that it ships answers", True, "16 mails, 15 of them scored as in its evaluation"),
        Gate("its data moved at most 0.25 from the champion's", True, "the same emails"),
        Gate("its lineage is complete", True, f"commit {'a' * 10}, and every hash"),
    ]
    first = check(changed_to(compared, champion=None), Gates(drift=0.25))
    assert not [gate for gate in first if "moved" in gate.name]  # without a champion nothing can have moved


@pytest.fixture
def cached(copied) -> dict[str, str]:
    """Rows in DVC's cache, by name their hash; `now` is here, too. Half of `now` are spam, and a fifth of `before`."""
    hashes, folder = {}, Path(EMAILS)
    Repo.init(no_scm=True).close()
    for name, spam, times in (("few", 2, 1), ("before", 2, 20), ("now", 5, 20)):
        labels = (["spam"] * spam + ["ham"] * (10 - spam)) * times
        rows = pd.DataFrame({"id": range(len(labels)), "body": "win a prize", "label": labels})
        rows.to_parquet(folder / "train.parquet")
        with Repo() as repo:
            repo.add(str(folder))
        hashes[name] = md5_of(folder)
    return hashes


def test_drift_is_named_with_its_property_and_number(cached):
    def drift(challengers: str | None, champions: str, most: float = 0.25) -> tuple[bool | None, str]:
        comparison = Comparison(
            model="classifier",
            challenger=version(Hashes({}, {EMAILS: challengers} if challengers else {}, {})),
            champion=version(Hashes({}, {EMAILS: champions}, {})),
            metrics={},
        )
        return finding_of(comparison, f"its data moved at most {most:g} from the champion's", drift=most)

    index = 0.3 * log(0.5 / 0.2) - 0.3 * log(0.5 / 0.8)
    passed, finding = drift(cached["now"], cached["before"])
    assert passed is False
    assert float(finding.removeprefix("emails: label ")) == pytest.approx(index, abs=1e-3)
    passed, finding = drift(cached["before"], cached["now"], most=0.5)  # whose rows do not lie here
    assert passed is True
    assert finding.endswith(", the most of 2")
    assert drift(cached["now"], cached["few"]) == (None, "emails: 10 rows are too few to tell, 200 are enough")
    way_out = "the rows of the champion's (d1.dir) are not in DVC's cache: `dvc fetch --all-commits` brings what a "
    assert drift(cached["now"], "d1.dir") == (None, f"{way_out}remote has")
    assert drift(None, "d1.dir") == (None, "the data of the challenger is not known")


NOTHING = Hashes({}, {}, {})


@pytest.mark.parametrize(
    ("hashes", "facts", "finding"),
    [
        (HASHES, WHOLE | {"git.dirty.code": "true"}, "not in git: code"),
        (HASHES, WHOLE | {"run.training": "none"}, "missing: the run that trained it"),
        (NOTHING, WHOLE, "missing: the hash of its weights, the hash of its data"),
        (HASHES, {}, "no git commit is known; missing: the run that trained it"),
    ],
)
def test_lineage_with_a_gap_does_not_pass(copied, hashes, facts, finding):
    comparison = Comparison(model="classifier", challenger=version(hashes, facts), champion=None, metrics={})
    assert finding_of(comparison, "its lineage is complete") == (False, finding)


def test_unknown_gate_is_no_failure_and_does_not_pass():
    good = Gate("True", True, "")
    bad = Gate("False", False, "")
    unknown = Gate("None", None, "")

    def reviewed(*gates: Gate) -> Reviewed:
        return Reviewed(model="classifier", version="2", champion="1", gates=gates, verdict="")

    assert reviewed(good, good).passed
    assert not reviewed(good, bad).passed
    assert not reviewed(good, unknown).passed
    assert (reviewed(good, unknown).failed, reviewed(good, unknown, bad).unknown) == ([], ["None"])
    clear = [reviewed(*gates).is_clear for gates in ((good,), (good, bad), (bad, unknown), (good, unknown))]
    assert clear == [True, True, True, False]
