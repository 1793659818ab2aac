from collections.abc import Iterator
from contextlib import contextmanager

from loopback import Answer, Asked, serving

from tasks.review.page import version_page
from tasks.stages.ui import address, main


@contextmanager
def answering_from(request: int) -> Iterator[tuple[str, list[str]]]:
    """A server that is not ready before this request; its port, and the paths that it was asked for."""
    asked: list[str] = []

    def answer(now: Asked) -> Answer:
        asked.append(now.path)
        return Answer(200 if len(asked) >= request else 503)

    with serving(answer) as url:
        yield url.rpartition(":")[2], asked


def test_ui_waits_for_both_servers_and_links_lead_to_them(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert [address("mlflow"), address("prefect")] == ["http://127.0.0.1:5000", "http://127.0.0.1:4200"]
    with answering_from(3) as (mlflow, mlflow_paths), answering_from(2) as (prefect, prefect_paths):
        main(mlflow, prefect)
    assert mlflow_paths == ["/health"] * 3
    assert prefect_paths == ["/api/health"] * 2
    output = capsys.readouterr().out
    assert f"MLflow at http://127.0.0.1:{mlflow}/#/models?workflowType=machine_learning, Prefect at http" in output
    assert version_page("threestage-mail", "2") == f"http://127.0.0.1:{mlflow}/#/models/threestage-mail/versions/2"
