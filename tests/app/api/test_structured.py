"""Answers within a JSON schema, /v1/responses, and completions with the log-probabilities of their prompts."""

import json
import math
import threading
from typing import Annotated

import openai
import pytest
import torch
from pydantic import BaseModel, Field

from llm.chat import Message, prompt_tokens
from llm.generation import grammar
from tests.app.api.questions import HELLO, ask, content_of, content_of_stream


class Cat(BaseModel):
    """The form of an answer; bounded, as random weights would never end a text or a number."""

    hungry: bool
    friends: Annotated[list[bool], Field(max_length=3)]


SCHEMA = Cat.model_json_schema() | {"additionalProperties": False}
FORMAT = {"type": "json_schema", "json_schema": {"name": "cat", "schema": SCHEMA, "strict": True}}


def test_chat_answer_follows_its_schema_whole_and_in_a_stream(client):
    options = {"response_format": FORMAT, "max_tokens": 100, "temperature": 0.9, "seed": 5}
    answer = ask(client, **options)
    assert answer.choices[0].finish_reason == "stop"
    Cat.model_validate_json(content_of(answer), strict=True)
    assert content_of_stream(ask(client, stream=True, **options)) == content_of(answer)
    several = ask(client, n=3, **options)
    assert all(Cat.model_validate_json(choice.message.content) for choice in several.choices)
    assert content_of(ask(client, response_format={"type": "json_object"}, max_tokens=5)).startswith("{")
    assert content_of(ask(client, response_format={"type": "text"})) == content_of(ask(client))


def test_schema_is_compiled_once_for_all_choices_and_outside_of_the_engines_thread(client, monkeypatch):
    threads = []
    compile_schema = grammar.LLMatcher.grammar_from_json_schema

    class Noted:
        """The matcher, which notes the thread that compiles a schema."""

        grammar_from_json_schema = staticmethod(compile_schema)

        def __new__(cls, *arguments, **options):
            threads.append(threading.current_thread().name)
            return LLMatcher(*arguments, **options)

    LLMatcher = grammar.LLMatcher
    monkeypatch.setattr(grammar, "LLMatcher", Noted)
    answer = ask(client, response_format=FORMAT, max_tokens=60, n=3)
    assert [json.loads(choice.message.content).keys() for choice in answer.choices] == [{"hungry", "friends"}] * 3
    assert len(threads) == 1
    assert threads[0] != "engine"


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        ({"type": "json_schema"}, "type json_schema and json_schema belong together"),
        ({"type": "xml"}, "response_format"),
        (
            FORMAT | {"json_schema": {"name": "cat", "schema": {"type": "nonsense"}}},
            "the JSON schema can't be followed",
        ),
    ],
)
def test_wrong_schema_is_refused_before_the_model_begins(client, form, reason):
    with pytest.raises(openai.BadRequestError, match=reason):
        ask(client, response_format=form)


def test_response_is_the_chats_answer_and_has_its_usage(client):
    chat = ask(client)
    response = client.responses.create(model="assistant", input=HELLO[0]["content"], max_output_tokens=12)
    assert response.output_text == content_of(chat)
    assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert response.model == "threestage-assistant/1"
    assert response.usage.input_tokens == chat.usage.prompt_tokens
    assert response.usage.output_tokens == chat.usage.completion_tokens
    talk = [*HELLO, response.output[0].model_dump(), {"role": "user", "content": "the cat"}]
    again = [*HELLO, {"role": "assistant", "content": response.output_text}, {"role": "user", "content": "the cat"}]
    following = client.responses.create(model="assistant", input=talk, max_output_tokens=12)
    assert following.output_text == content_of(ask(client, again))
    brief = client.responses.create(model="assistant", instructions="Be brief.", input="hello", max_output_tokens=12)
    system = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}]
    assert brief.output_text == content_of(ask(client, system))


def test_response_streams_the_same_text_and_follows_a_schema(client):
    options = {"model": "assistant", "input": "hello", "temperature": 0.9, "max_output_tokens": 100}
    form = {"format": {"type": "json_schema", "name": "cat", "schema": SCHEMA}}
    with client.responses.stream(text=form, **options) as stream:
        events = list(stream)
        response = stream.get_final_response()
    assert response.status == "completed"
    Cat.model_validate_json(response.output_text, strict=True)
    assert (
        "".join(event.delta for event in events if event.type == "response.output_text.delta") == response.output_text
    )
    assert events[0].type == "response.created"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    parsed = client.responses.parse(text_format=Cat, **options)
    assert isinstance(parsed.output_parsed, Cat)


@pytest.mark.parametrize(
    "options", [{"previous_response_id": "resp_1"}, {"tools": [{"type": "web_search"}]}, {"input": []}]
)
def test_response_refuses_what_needs_a_state_or_tools(client, options):
    with pytest.raises(openai.BadRequestError):
        client.responses.create(**{"model": "assistant", "input": "hello"} | options)


def test_echo_has_the_log_probabilities_of_the_prompt(client, foundation):
    model, encoding = foundation
    prompt = "the cat sat on the"
    tokens = encoding.encode_ordinary(prompt)
    answer = client.completions.create(model="foundation", prompt=prompt, max_tokens=2, echo=True, logprobs=2)
    (choice,) = answer.choices
    assert choice.text.startswith(prompt)
    assert "".join(choice.logprobs.tokens) == choice.text
    assert choice.logprobs.token_logprobs[0] is None
    assert choice.logprobs.top_logprobs[0] is None
    assert choice.logprobs.text_offset[:2] == [0, len(choice.logprobs.tokens[0])]
    with torch.inference_mode():
        logprobs_TV = model(torch.tensor([tokens]))[0].float().log_softmax(dim=-1)
    expected = [logprobs_TV[position, token].item() for position, token in enumerate(tokens[1:])]
    assert choice.logprobs.token_logprobs[1 : len(tokens)] == pytest.approx(expected, abs=2e-2)
    for position, likeliest in enumerate(choice.logprobs.top_logprobs[1:]):
        assert len(likeliest) == 2
        assert max(likeliest.values()) <= 0
        if position < len(tokens) - 1:
            assert max(likeliest.values()) == pytest.approx(logprobs_TV[position].max().item(), abs=2e-2)
    plain = client.completions.create(model="foundation", prompt=tokens, max_tokens=2)
    assert choice.text == prompt + plain.choices[0].text
    assert math.isclose(answer.usage.prompt_tokens, len(tokens))
    with pytest.raises(openai.BadRequestError, match="echo is not supported in a stream"):
        client.completions.create(model="foundation", prompt=prompt, echo=True, stream=True)


def test_schema_in_the_prompt_is_not_needed(client, assistant):
    tokens = prompt_tokens(assistant.encoding, assistant.model.chat, [Message("user", HELLO[0]["content"])])
    answer = ask(client, response_format=FORMAT, max_tokens=60)
    assert answer.usage.prompt_tokens == len(tokens), "the schema binds the answer alone"
    assert json.loads(content_of(answer)).keys() == {"hungry", "friends"}
