"""/v1 lists models, refuses wrong requests with a reason, and ignores what changes nothing."""

import openai
import pytest

from tests.app.api.questions import HELLO, ask


def test_models_are_listed_by_name_alias_and_version(client):
    listed = {model.id: model for model in client.models.list()}
    assert listed.keys() == {
        *("assistant", "assistant@champion", "assistant@challenger", "assistant/1", "assistant/2"),
        *("classifier", "classifier@challenger", "classifier/1"),
        *("foundation", "foundation@challenger", "foundation/1"),
    }
    assert (listed["assistant"].version, listed["assistant@challenger"].version) == ("assistant/1", "assistant/2")
    for name in listed:
        assert client.models.retrieve(name) == listed[name]
    assert client.models.retrieve("threestage-assistant/2").version == "assistant/2"
    assert listed["assistant"].capabilities == ["chat", "complete"]
    answers = [ask(client, model=name, max_tokens=30) for name in ("assistant", "assistant/1", "assistant@challenger")]
    assert [answer.model[-1] for answer in answers] == ["1", "1", "2"]
    assert answers[0].choices == answers[1].choices != answers[2].choices


INVALID, UNKNOWN, TOO_LONG = "invalid_request", "model_not_found", "context_length_exceeded"
TEXT = {"type": "text", "text": "x"}


def turn(role, content):
    return [{"role": role, "content": content}]


@pytest.mark.parametrize(
    ("options", "code", "param", "reason"),
    [
        ({"model": "gpt-4"}, UNKNOWN, "model", "'gpt-4' is not registered; those are: assistant,"),
        ({"model": "foundation"}, "unsupported_model", "model", "foundation/1 can't chat; models that can: assistant"),
        ({"max_tokens": 600}, TOO_LONG, "messages", "with 600 new ones it does not fit the context of 512"),
        ({"messages": turn("assistant", "x")}, INVALID, "messages", "last message is not the user's"),
        ({"messages": turn("tool", "x")}, INVALID, "messages.0.role", "'system', 'developer'"),
        ({"temperature": 3}, INVALID, "temperature", "less than or equal to 2"),
        ({"n": 13}, INVALID, "n", "13 texts in one request; at most 12 have room"),
        ({"top_logprobs": 2}, INVALID, None, "top_logprobs needs logprobs: true"),
        ({"temprature": 1}, INVALID, "temprature", "temprature is not known"),
        ({"messages": turn("user", [TEXT | {"t": 1}])}, INVALID, "messages.0.content.list[TextPart].0.t", ""),
        ({"messages": [HELLO[0] | {"tool_calls": [{}]}]}, INVALID, "messages.0.tool_calls", "is not supported"),
    ],
)  # fmt: skip
def test_invalid_request_is_the_clients_own_exception_with_a_reason(client, options, code, param, reason):
    with pytest.raises(openai.NotFoundError if code == UNKNOWN else openai.BadRequestError) as raised:
        ask(client, extra_body=options)
    assert raised.value.code == code
    assert raised.value.param == param
    assert reason in raised.value.body["message"]
    assert raised.value.type == "invalid_request_error"


@pytest.mark.parametrize(
    "part",
    [{"tool_choice": "required"}, {"response_format": {"type": "json_object"}}, {"logit_bias": {"5": 10}},
     {"presence_penalty": 0.5}, {"modalities": ["text", "audio"]}, {"reasoning_effort": "high"}],
    ids=str,
)  # fmt: skip
def test_unsupported_option_is_refused_with_its_name(client, part):
    with pytest.raises(openai.BadRequestError, match=f"{next(iter(part))} is not supported") as raised:
        ask(client, extra_body=part)
    assert raised.value.param == next(iter(part))


def test_invalid_completion_is_refused_with_a_reason(client):
    for options, reason in (
        ({"echo": True}, "echo is not supported"),
        ({"suffix": "x"}, "suffix is not supported"),
        ({"best_of": 3}, "best_of is not supported"),
        ({"logprobs": 3}, "logprobs is not supported"),
        ({"prompt": ""}, "the prompt is empty"),
        ({"prompt": [1, 320]}, "token 320 is not one of the model's"),
        ({"model": "classifier"}, "classifier/1 can't complete; models that can: foundation, assistant"),
        ({"model": "assistant", "max_tokens": 512}, "does not fit the context of 512"),
    ):
        with pytest.raises(openai.BadRequestError, match=reason):
            client.completions.create(**({"model": "foundation", "prompt": "x"} | options))


def test_options_that_change_nothing_are_accepted(client):
    nothing = {"tools": None, "logit_bias": {}, "presence_penalty": 0, "response_format": {"type": "text"}}
    nothing |= {"tool_choice": "auto", "verbosity": "medium", "stream_options": None}
    beside = {"user": "me", "metadata": {"a": "b"}, "store": False, "parallel_tool_calls": True, "service_tier": "auto"}
    beside |= {"safety_identifier": "me", "prompt_cache_key": "k", "prompt_cache_retention": "24h"}
    named = [HELLO[0] | {"name": "Anna"}]
    assert ask(client, named, extra_body=nothing | beside).choices == ask(client).choices
    chunks = ask(client, stream=True, stream_options={"include_usage": True, "include_obfuscation": False})
    assert [*chunks][-1].usage == ask(client).usage
