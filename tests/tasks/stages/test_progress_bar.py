"""Progress of long work, with and without a terminal."""

import logging
from types import SimpleNamespace

import pytest

from tasks.stages import progress_bar
from tasks.stages.progress_bar import LOG_EVERY, ProgressBar


@pytest.mark.parametrize(("total", "share"), [(100, "classifier:   9% 9/100 ["), (None, "classifier:  9/? [")])
def test_bar_without_a_terminal_logs_a_line_each_ten_seconds(monkeypatch, capfd, caplog, total, share):
    seconds = iter(range(10**6))
    monkeypatch.setattr(progress_bar, "time", SimpleNamespace(monotonic=seconds.__next__))
    with (
        caplog.at_level(logging.INFO),
        ProgressBar(total=total, desc="classifier", unit="step", mininterval=0, miniters=1) as bar,
    ):
        for _ in range(100):
            bar.update()
    assert capfd.readouterr() == ("", "")
    assert len(caplog.messages) == 100 / LOG_EVERY
    assert caplog.messages[0].startswith(share)
