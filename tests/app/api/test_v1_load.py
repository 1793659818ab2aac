"""/v1 under load and failures: busy, timeout, clients that leave, a model that fails, and the metrics."""

import math

import httpx
import openai
import pytest

from tests.app.api.questions import HELLO, ask
from tests.app.conftest import wait_until
from tests.app.steps import is_idle, running_texts, samples, stepwise


def test_queue_that_is_full_refuses_a_chat_and_answers_a_retry(server, client):
    with stepwise() as steps:
        streams = [iter(ask(client, stream=True, n=n)) for n in (4, 8)]
        for stream in streams:
            next(stream)  # its role, as soon as it has a place
        assert running_texts(server) == 12
        with pytest.raises(
            openai.RateLimitError, match="12 requests run or wait already, and at most 12 may"
        ) as raised:
            ask(client)
        assert int(raised.value.response.headers["retry-after"]) >= 1
        assert raised.value.code == "busy"
        steps.open()
        assert [len(list(stream)) > 12 for stream in streams] == [True, True]
    assert ask(client).choices


@pytest.mark.parametrize(("stream", "ahead"), [(False, 0), (True, 4)])
def test_cancelled_request_frees_its_place_running_or_waiting(server, client, stream, ahead):
    url = f"{server}/v1/chat/completions"
    with stepwise() as steps:
        streams_ahead = [iter(ask(client, stream=True, n=ahead))] if ahead else []
        for text in streams_ahead:
            next(text)
        before = running_texts(server)
        written = samples(server).get(("threestage_tokens_total", "threestage-assistant/1"), 0)
        body = {"messages": HELLO, "max_tokens": 400, "stream": stream}
        if stream:
            with httpx.stream("POST", url, json=body, timeout=300) as answer:
                next(answer.iter_lines())
        else:
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(url, json=body, timeout=httpx.Timeout(300, read=0.5))

        def is_free() -> bool:
            steps.let(1)
            return running_texts(server) == before or bool(ahead)

        wait_until(is_free, 120)
        assert samples(server)["threestage_tokens_total", "threestage-assistant/1"] - written < 400
        steps.open()
        assert all(map(list, streams_ahead))
    wait_until(lambda: is_idle(server), 120)
    assert ask(client).choices


def test_timeout_of_an_answer_is_504_or_an_event(server, client, change_settings):
    change_settings(request_seconds=0.001)
    with pytest.raises(openai.InternalServerError) as raised:
        ask(client, max_tokens=400)
    assert (raised.value.status_code, raised.value.code) == (504, "timeout")
    # else OpenAI's clients have everything computed three times
    assert raised.value.response.headers["x-should-retry"] == "false"
    with pytest.raises(openai.APIError, match="took longer"):
        list(ask(client, stream=True, max_tokens=400))
    wait_until(lambda: is_idle(server), 120)


def test_failed_model_is_500_or_an_event_and_answers_the_next_request(server, client):
    with stepwise() as steps:
        steps.open()
        steps.fail_once(RuntimeError("no memory"))
        with pytest.raises(openai.InternalServerError, match="the model failed at this text") as raised:
            ask(client)
        assert (raised.value.status_code, raised.value.code) == (500, "failed")
        steps.fail_once(RuntimeError("no memory"))
        with pytest.raises(openai.APIError, match="the model failed at this text"):
            list(ask(client, stream=True))
        assert ask(client).usage.completion_tokens == 12
    wait_until(lambda: is_idle(server), 60)


def test_metrics_count_requests_tokens_and_times(server, client):
    before = samples(server)
    ask(client, max_tokens=5)
    list(ask(client, max_tokens=7, stream=True))
    with pytest.raises(openai.NotFoundError):
        ask(client, model="unknown")
    after = samples(server)

    def more(*name):
        return after.get(name, 0) - before.get(name, 0)

    assert more("threestage_tokens_total", "threestage-assistant/1") == 12
    assert more("threestage_requests_total", "/v1/chat/completions", "200") == pytest.approx(2)
    assert more("threestage_requests_total", "/v1/chat/completions", "404") == 1
    assert more("threestage_request_seconds_count", "/v1/chat/completions") == 3
    assert more("threestage_first_token_seconds_count", "threestage-assistant/1") == 1
    assert math.isfinite(after["threestage_request_seconds_sum", "/v1/chat/completions"])
