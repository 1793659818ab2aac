from loopback import Answer, serving

from tasks.review.page import version_page
from tasks.stages.ui import address, main


def test_ui_waits_for_both_servers_and_links_lead_to_them(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert [address("mlflow"), address("prefect")] == ["http://127.0.0.1:5000", "http://127.0.0.1:4200"]
    statuses = {"/health": [503, 503, 200], "/api/health": [503, 200]}

    def answer(request):
        return Answer(statuses[request.path].pop(0))

    with serving(answer) as url:
        port = url.rpartition(":")[2]
        main(port, port)
    assert statuses == {"/health": [], "/api/health": []}
    assert f"MLflow at {url}/#/models?workflowType=machine_learning, Prefect at {url}" in capsys.readouterr().out
    assert version_page("threestage-mail", "2") == f"{url}/#/models/threestage-mail/versions/2"
