import logging
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from dvc.repo import Repo

from tasks.stages import dvc_lock
from tasks.stages.dvc_lock import BusyError, when_free
from tasks.stages.graph import is_stale, plan

pytestmark = pytest.mark.slow


@pytest.fixture
def another_dvc(tmp_path, monkeypatch) -> Iterator[ExitStack]:
    """A dvc that holds the lock of this folder until it is closed."""
    monkeypatch.chdir(tmp_path)
    Path("dvc.yaml").write_text("stages: {train: {cmd: 'true'}}")
    with Repo.init(no_scm=True) as repo, ExitStack() as lock:
        lock.enter_context(repo.lock)
        yield lock


def test_when_free_waits_until_another_dvc_has_released_its_lock(another_dvc, caplog):
    class Release(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            another_dvc.close()

    caplog.set_level("INFO")
    dvc_lock.logger.addHandler(handler := Release())
    try:
        assert when_free(plan).stages == ["train"]
    finally:
        dvc_lock.logger.removeHandler(handler)
    assert "waiting for another dvc: Unable to acquire lock." in caplog.text


def test_when_free_gives_up_with_dvcs_reason_and_a_command_of_a_person_fails_at_once(another_dvc, monkeypatch):
    with pytest.raises(BusyError, match=r"^Unable to acquire lock"):
        is_stale()
    monkeypatch.setattr(dvc_lock, "LONGEST_WAIT", 0)
    with pytest.raises(BusyError, match=r"^another dvc works in this folder, for 0 s by now: Unable to acquire lock"):
        when_free(plan)
