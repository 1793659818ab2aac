"""Progress of long work, with and without a terminal."""

import logging
import sys
from types import SimpleNamespace

import pytest

from tasks.stages import progress_bar
from tasks.stages.progress_bar import LOG_EVERY, ProgressBar


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """The bar's time, which a test moves. `time` itself would stop servers of other tests in this process."""
    seconds = [0.0]
    monkeypatch.setattr(progress_bar, "time", SimpleNamespace(monotonic=lambda: seconds[0]))
    return seconds


def run(clock: list[float], total: int | None) -> None:
    """A hundred steps, of a second each."""
    with ProgressBar(total=total, desc="classifier", unit="step", mininterval=0, miniters=1) as bar:
        for _ in range(100):
            clock[0] += 1
            bar.set_postfix_str("loss 0.5", refresh=False)
            bar.update()
            bar.clear()


@pytest.mark.parametrize(("total", "share"), [(100, "classifier:  10% 10/100 ["), (None, "classifier:  10/? [")])
def test_bar_without_a_terminal_logs_a_line_each_ten_seconds(clock, capfd, caplog, total, share):
    with caplog.at_level(logging.INFO):
        run(clock, total)
    assert capfd.readouterr() == ("", "")
    assert len(caplog.messages) == 100 / LOG_EVERY
    assert caplog.messages[0].startswith(share)
    assert caplog.messages[0].endswith("loss 0.5]")


def test_bar_on_a_terminal_is_drawn_and_logs_nothing(clock, capfd, caplog, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with caplog.at_level(logging.INFO):
        run(clock, 100)
    assert "100/100" in capfd.readouterr().err
    assert caplog.messages == []
