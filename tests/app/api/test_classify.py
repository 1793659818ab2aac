"""/classify: mails as text and raw messages, one or thousands."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx
import pandas as pd
import pytest
from mlflow.pyfunc import PythonModelContext
from projects import ROOT, environment

from app.cleaning import Cleaner
from llm.loaded_model import LoadedModel
from llm.objectives.classifier import probabilities
from llm.objectives.classifier.explanations import moved_by
from tasks.data.mail import clean_row
from tasks.served import ServedModel
from tests.app.conftest import any_alive, children, post, wait_until
from tests.app.rows import ends_itself, hangs
from tests.app.steps import samples, stepwise

MAILS = [
    {"subject": "hello", "body": "the cat sat on the mat"},
    {"subject": "", "body": "a bird sang to the moon . " * 40},
    {"subject": "the moon", "body": ""},
    {"body": "<html><p>how are <b>you</b> ?</p></html>"},
    {"message": "Subject: =?utf-8?q?hello_=C3=A4?=\nContent-Type: text/html\n\n<p>the dog &amp; the hat</p>"},
    {"message": "no headers at all\n\nhow are you ?"},
    {"subject": "\ud800ä", "body": "\x00 \ufffd 🐈 ?"},
]


@pytest.fixture(scope="module")
def served(registry) -> ServedModel:
    """The same version as MLflow serves it."""
    model = ServedModel()
    model.load_context(PythonModelContext({"model": str(registry / "classifier-1/classifier")}, None))
    return model


def classify(address, emails, **options):
    return post(address, "/classify", {"emails": emails} | options)


def classified(address) -> float:
    """Mails that the classifier's version has classified since the server's start."""
    return samples(address).get(("threestage_emails_total", "threestage-classifier/1"), 0)


def verdicts(address, emails, **options):
    return classify(address, emails, **options).raise_for_status().json()["verdicts"]


def test_classify_gives_the_verdicts_of_the_registered_model(server, served):
    mails = [mail for mail in MAILS if "\ud800" not in mail.get("subject", "")]
    expected = served.predict(None, pd.DataFrame(mails))
    classification = classify(server, mails).json()
    assert classification["model"] == "threestage-classifier/1"
    assert classification["labels"] == ["ham", "spam"]
    assert (classification["threshold"], classification["unsure"]) == (0.5, [0.19, 0.6])
    answers = classification["verdicts"]
    assert {verdict["label"] for verdict in answers} == {"ham", "unsure", "spam"}
    assert [verdict["label"] for verdict in answers] == expected["label"].tolist()
    for label in ("ham", "spam"):
        probabilities = [verdict["probabilities"][label] for verdict in answers]
        assert probabilities == pytest.approx(expected[f"{label}_probability"].tolist(), abs=1e-5)
    for verdict in answers:
        assert verdict["probability"] == verdict["probabilities"][verdict["leaning"]]
        assert verdict["error"] is None
    assert len({round(verdict["probabilities"]["spam"], 4) for verdict in answers}) > 3


def test_classify_keeps_the_order_of_many_mails(server):
    mails = [{"subject": f"hello {number}", "body": "the cat sat " * (number % 7)} for number in range(300)]
    before = classified(server)
    answers = verdicts(server, mails)
    assert len(answers) == 300
    for number in (0, 63, 64, 299):
        (alone,) = verdicts(server, [mails[number]])
        assert answers[number]["probability"] == pytest.approx(alone["probability"], abs=1e-5)
    assert classified(server) == before + 304


def test_bad_row_has_its_reason_among_good_ones(server, served):
    rows = [MAILS[0], {}, {"message": "x", "subject": "y"}, MAILS[1], {"body": " \n\t"}, {"message": "Subject: \n\n"}]
    answers = verdicts(server, rows)
    assert [verdict["error"] for verdict in answers] == [
        *(None, "there is no text to classify", "a row has either message or subject and body"),
        *(None, "there is no text to classify", "there is no text to classify"),
    ]
    assert [verdict["error"] for verdict in answers] == served.predict(None, pd.DataFrame(rows))["error"].tolist()
    assert [bool(verdict["label"]) for verdict in answers] == [True, False, False, True, False, False]
    assert all(verdict["probabilities"] is None for verdict in answers if verdict["error"])


@pytest.mark.parametrize("rows", [[], [{"subject": 5}], [{"subject": "x", "sender": "y"}]], ids=str)
def test_body_that_is_no_list_of_mails_is_refused_as_a_whole(server, rows):
    answer = classify(server, rows)
    assert answer.status_code == 422
    assert answer.json()["error"]["param"].startswith("emails")


def test_explanation_has_the_strongest_phrases_first(server, served):
    text = {"subject": "hello", "body": "the cat sat on the mat, and the dog. The dog ate the hat"}
    (verdict,) = verdicts(server, [text], explain=4)
    read = partial(probabilities, LoadedModel(served.model, served.encoding))
    expected = moved_by(read, ["ham", "spam"], f"{text['subject']}\n\n{text['body']}")[:4]
    assert len(expected) > 1
    phrases = verdict["moved_by"]
    assert [(phrase["text"], phrase["label"]) for phrase in phrases] == [phrase[:2] for phrase in expected]
    effects = [phrase.effect for phrase in expected]
    assert [phrase["effect"] for phrase in phrases] == pytest.approx(effects, abs=1e-3)
    assert verdicts(server, [text])[0]["moved_by"] is None
    assert len(verdicts(server, [text] * 16, explain=1)) == 16
    answer = classify(server, [text] * 17, explain=1)
    assert answer.status_code == 400
    assert "17 mails with explain; at most 16 are explained at once" in answer.json()["error"]["message"]


def test_queue_that_is_full_refuses_a_request_and_answers_a_retry(server, change_settings):
    change_settings(queue=0)
    feedback = {"about": "email", "label": "spam", **MAILS[0]}
    for answer in (classify(server, MAILS[:1]), post(server, "/feedback", feedback)):
        assert answer.status_code == 429
        assert answer.headers["retry-after"] == "1"
    change_settings(queue=1)
    assert verdicts(server, MAILS[:1])


def test_cancelled_request_is_not_classified_to_its_end(server, change_settings):
    change_settings(queue=1)
    before = classified(server)

    def is_answered() -> bool:
        return classify(server, MAILS[:1]).status_code == 200

    with stepwise() as steps:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{server}/classify", json={"emails": MAILS[:1] * 5000}, timeout=httpx.Timeout(300, read=1))
        steps.let(2)  # the 64 that have begun, in two batches
        steps.open()
    wait_until(is_answered, 120)
    assert classified(server) == before + 1


def test_timeout_of_a_list_of_mails_is_504(server, change_settings):
    change_settings(request_seconds=0.001)
    answer = classify(server, MAILS[:1] * 200)
    assert answer.status_code == 504
    assert "of 200 mails were classified" in answer.json()["error"]["message"]


BOMBS = {  # each would take Python's own parsers, or Beautiful Soup, minutes to hours
    "tags in tags": {"body": "<html>" + "<div>" * 100_000 + "x"},
    "entities in entities": {"body": "&" + "amp;" * 100_000 + " x"},
    "parameters of a header": {"message": "Content-Type: text/plain" + ";a=b" * 200_000 + "\n\nx"},
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_hostile_mail_is_read_like_its_neighbours(server, bomb):
    first, second, third = verdicts(server, [MAILS[0], bomb, MAILS[0]])
    assert [first["error"], second["error"], third["error"]] == [None] * 3
    assert first["probability"] == third["probability"]


@pytest.fixture
def make_cleaner():
    made = []

    def make(*seconds: float) -> Cleaner:
        made.append(Cleaner(*seconds))
        return made[-1]

    yield make
    for cleaner in made:
        cleaner.close()


def test_timeout_of_a_mail_leaves_its_neighbours_readable(make_cleaner):
    assert make_cleaner(3)(hangs, ["a", "hangs", "b"]) == [{"body": "a"}, "not readable within 3 s", {"body": "b"}]


def test_timeout_counts_for_all_mails_together(make_cleaner):
    cleaner = make_cleaner()
    assert cleaner(hangs, ["a", "b"], 300) == [{"body": "a"}, {"body": "b"}]
    late, *unread = cleaner(hangs, ["hangs", "b", "c"], 1)
    assert late.startswith("not readable within ")
    assert unread == ["not read: the mails before it took all of the time"] * 2
    assert cleaner(hangs, ["a"], 300) == [{"body": "a"}]


def has_children() -> bool:
    return bool(children(os.getpid()))


def test_shutdown_waits_for_no_mail(make_cleaner):
    cleaner = make_cleaner(600)
    with ThreadPoolExecutor() as threads:
        call = threads.submit(cleaner, hangs, ["hangs", "b"])
        wait_until(has_children, 120)
        cleaner.close()
        reasons = call.result(60)
    assert reasons == ["not readable: it ended the process that reads mails", "not read: the server is ending"]


def test_crash_of_the_cleaning_process_has_a_reason_and_the_next_mail_starts_another(make_cleaner):
    cleaner = make_cleaner()
    assert cleaner(ends_itself, [{"body": "x"}, {}]) == ["not readable: it ended the process that reads mails", {}]
    assert cleaner(clean_row, [{"body": "x"}, {"message": "a", "body": "b"}]) == [
        {"subject": "", "body": "x"},
        "a row has either message or subject and body",
    ]


def test_killed_server_leaves_no_process_behind(tmp_path):
    code = "from app.cleaning import Cleaner\nCleaner()(dict, [{}])\nprint('read', flush=True)\ninput()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], env=environment(PYTHONPATH=str(ROOT)), **pipes) as server:
        assert server.stdout.readline() == b"read\n"
        helpers = children(server.pid)
        assert helpers
        server.kill()
    wait_until(lambda: not any_alive(helpers), 60)
