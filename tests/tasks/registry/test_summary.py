import json
from pathlib import Path

from tasks.registry.summary import print_summary


def test_summary_has_metrics_with_baseline_and_the_version_of_each_model(mlflow_store, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    for model, metrics in {
        "foundation": {"test_loss": 3.25, "bits_per_byte": 1.5},
        "classifier": {"f1": 0.97126, "recall": 0.9, "baseline_f1": 0.98},
    }.items():
        Path("reports/evaluation", model).mkdir(parents=True)
        Path("reports/evaluation", model, "metrics.json").write_text(json.dumps(metrics))
    print_summary(
        {"foundation": "version 3, challenger", "classifier": None, "assistant": "version 1"}, "Done in 9 min 5 s"
    )
    lines = [" ".join(line.strip("│ ").replace("│", "").split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "Done in 9 min 5 s"
    for line in (
        "foundation test_loss 3.250 version 3, challenger",
        "bits_per_byte 1.500",
        "classifier f1 0.971 (baseline 0.980) not registered",
        "recall 0.900",
        "assistant not evaluated version 1",
    ):
        assert line in lines
    assert not any("baseline_f1" in line for line in lines)
    assert lines[-2].startswith("Next: make ui")
    assert lines[-1] == "no version waits for a decision"
