"""OpenAI's API, by its official client and by plain HTTP."""

import math

import httpx
import openai
import pytest
import torch

from llm.chat import Message, prompt_tokens
from llm.loaded_model import LoadedModel
from llm.objectives import load_for_inference
from llm.objectives.assistant import Question, answer_all
from llm.tokenizer import decode
from tests.app.conftest import wait_until
from tests.app.steps import running_texts, samples, stepwise

HELLO = [{"role": "user", "content": "hello how are you ?"}]


@pytest.fixture
def client(server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0, timeout=300)


@pytest.fixture(scope="session")
def assistant(registry):
    """The champion, as the server loads it."""
    return load_for_inference(registry / "assistant-1/assistant")


@pytest.fixture(scope="session")
def foundation(registry):
    return load_for_inference(registry / "foundation-1/foundation")


def ask(client, messages=HELLO, **options):
    return client.chat.completions.create(**{"model": "assistant", "messages": messages, "max_tokens": 12} | options)


def say(client, text, **options):
    return ask(client, [{"role": "user", "content": text}], **options).choices[0].message.content


def test_an_answer_is_what_the_assistant_says_without_a_server(client, assistant):
    questions = ["hello how are you ?", "the cat sat", "ä ö ü 🐈 <|endoftext|>", "a bird\n\nsang " * 20]
    expected = answer_all(assistant, [Question(text) for text in questions], max_new_tokens=64)
    assert [say(client, text, max_tokens=64).strip() for text in questions] == expected
    assert len(set(expected)) > 2
    with pytest.raises(openai.BadRequestError, match="the last message has no text"):
        say(client, " \n")


def test_an_answer_says_who_gave_it_why_it_ended_and_what_it_cost(client, assistant):
    model, encoding = assistant
    answer = ask(client)
    assert answer.object == "chat.completion"
    assert answer.model == "threestage-assistant/1"
    assert answer.id.startswith("chatcmpl-")
    (choice,) = answer.choices
    assert (choice.index, choice.finish_reason, choice.message.role) == (0, "length", "assistant")
    prompt = len(prompt_tokens(encoding, model.chat, [Message("user", HELLO[0]["content"])]))
    usage = answer.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (prompt, 12, prompt + 12)
    assert ask(client, max_tokens=3, max_completion_tokens=4).usage.completion_tokens == 4


@pytest.mark.parametrize("n", [1, 3])
def test_a_stream_has_the_pieces_of_the_same_answer(client, n):
    options = {"n": n, "temperature": 0.9, "seed": 7, "max_tokens": 20}
    whole = ask(client, **options)
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}, **options))
    texts, ends = [""] * n, {}
    for chunk in chunks[:-1]:
        (choice,) = chunk.choices
        assert choice.index not in ends
        texts[choice.index] += choice.delta.content or ""
        if choice.finish_reason:
            ends[choice.index] = choice.finish_reason
    assert texts == [choice.message.content for choice in whole.choices]
    assert ends == {choice.index: choice.finish_reason for choice in whole.choices}
    assert [chunk.choices[0].delta.role for chunk in chunks[:n]] == ["assistant"] * n
    assert {chunk.usage for chunk in chunks[:-1]} == {None}
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert len(chunks) > 2 * n + 1
    assert len({(chunk.id, chunk.model) for chunk in chunks}) == 1
    assert all(chunk.choices and not chunk.usage for chunk in ask(client, stream=True, **options))


@pytest.mark.parametrize("stream", [False, True])
def test_a_text_ends_before_a_stop_string_also_across_tokens(client, assistant, stream):
    text = say(client, "hello", max_tokens=40)
    stop = next(
        text[at : at + 5]
        for at in range(4, len(text) - 5)
        if text.find(text[at : at + 5]) == at and "\ufffd" not in text[at : at + 5]
    )
    assert len(assistant[1].encode_ordinary(stop)) > 1
    for stops in (stop, ["never", stop]):
        answer = ask(client, [{"role": "user", "content": "hello"}], max_tokens=40, stop=stops, stream=stream)
        if stream:
            chunks = list(answer)
            found = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
            finish = chunks[-1].choices[0].finish_reason
        else:
            found, finish = answer.choices[0].message.content, answer.choices[0].finish_reason
            assert answer.usage.completion_tokens < 40
        assert found == text[: text.find(stop)]
        assert finish == "stop"


def test_several_choices_differ_and_repeat_with_their_seed(client):
    def texts(**options):
        return [
            choice.message.content for choice in ask(client, n=4, temperature=1.0, max_tokens=30, **options).choices
        ]

    written = [text for text in texts() if text]  # one may end before its first word
    assert len(set(written)) == len(written) > 1
    assert texts(seed=3) == texts(seed=3)
    assert len({*texts(seed=3), *texts(seed=-6)}) == 8
    assert ask(client, n=4, max_tokens=5).usage.completion_tokens == 20


def test_temperature_top_p_top_k_and_the_penalty_change_the_draw(client):
    greedy = say(client, "hello", max_tokens=30)
    drawn = say(client, "hello", max_tokens=30, temperature=1.5, seed=1)
    assert drawn != greedy
    for alone in (
        {"top_p": 0},
        {"top_p": 1e-300},
        {"top_p": 1e-9},
        {"extra_body": {"top_k": 1}},
        {"extra_body": {"min_p": 1}},
    ):
        assert say(client, "hello", max_tokens=30, temperature=1.5, seed=1, **alone) == greedy
    for extra in ({"repetition_penalty": 5}, {"text_penalty": 5}):
        assert say(client, "hello", max_tokens=30, extra_body=extra) != greedy
    assert say(client, "hello", max_tokens=30, temperature=0) == greedy


def test_log_probabilities_are_those_of_a_forward_pass(client, assistant):
    model, encoding = assistant
    ids = {encoding.decode_single_token_bytes(token): token for token in range(encoding.n_vocab)}
    answer = ask(client, logprobs=True, top_logprobs=4, max_tokens=8, temperature=1.3, seed=2)
    told = answer.choices[0].logprobs.content
    assert len(told) == answer.usage.completion_tokens > 2
    prompt = prompt_tokens(encoding, model.chat, [Message("user", HELLO[0]["content"])])
    made: list[int] = []
    for each in told:
        with torch.inference_mode():
            expected = model(torch.tensor([prompt + made]))[0, -1].float().log_softmax(-1)
        values = [likely.logprob for likely in each.top_logprobs]
        assert values == sorted(values, reverse=True)
        assert values == pytest.approx(expected.topk(4).values.tolist(), abs=0.05)
        likely = [ids[bytes(likely.bytes)] for likely in each.top_logprobs]
        assert values == pytest.approx(expected[likely].tolist(), abs=0.05)
        made.append(ids[bytes(each.bytes)])
        assert each.logprob == pytest.approx(expected[made[-1]].item(), abs=0.05)
    assert decode(encoding, made) == answer.choices[0].message.content
    assert answer.choices[0].logprobs.content[0].token == bytes(told[0].bytes).decode(errors="replace")
    streamed = ask(client, logprobs=True, top_logprobs=4, max_tokens=8, temperature=1.3, seed=2, stream=True)
    chunks = [chunk.choices[0].logprobs for chunk in streamed]
    assert [each.bytes for logprobs in chunks if logprobs for each in logprobs.content] == [each.bytes for each in told]
    assert ask(client, logprobs=True).choices[0].logprobs.content[0].top_logprobs == []
    assert ask(client).choices[0].logprobs is None


def test_completions_go_on_with_texts_tokens_and_several_at_once(client, foundation):
    model, encoding = foundation
    tokens = encoding.encode_ordinary("the cat sat")

    def texts(prompt, **options):
        made = client.completions.create(model="foundation", prompt=prompt, **options)
        return [choice.text for choice in made.choices]

    expected = decode(encoding, _greedy(model, tokens, 16))
    assert texts("the cat sat") == texts(tokens) == [expected]  # 16 tokens, as OpenAI has it
    assert texts(["the cat sat", "a dog"]) == [expected, *texts("a dog")]
    assert texts([tokens, encoding.encode_ordinary("a dog")]) == [expected, *texts("a dog")]
    assert texts(["the cat sat", "a dog"], n=2) == [expected] * 2 + texts("a dog") * 2
    assert client.completions.create(model="assistant", prompt="the cat", max_tokens=3).usage.completion_tokens == 3


def _greedy(model, prompt, count):
    made = list(prompt)
    with torch.inference_mode():
        for _ in range(count):
            made.append(int(model(torch.tensor([made]))[0, -1].argmax()))
    return made[len(prompt) :]


def test_earlier_turns_and_a_system_prompt_are_part_of_the_prompt(client, assistant):
    model, encoding = assistant
    system = {"role": "system", "content": "Say nothing but the truth, and be brief."}
    turns = [*HELLO, {"role": "assistant", "content": "well"}, {"role": "user", "content": "the moon ?"}]
    for messages in (turns, [system, *turns], [system, *HELLO]):
        expected = prompt_tokens(encoding, model.chat, [Message(**each) for each in messages])
        assert ask(client, messages).usage.prompt_tokens == len(expected)
    assert ask(client, [system | {"role": "developer"}, *HELLO]).usage == ask(client, [system, *HELLO]).usage
    assert ask(client, [system, *HELLO]).usage.prompt_tokens != ask(client).usage.prompt_tokens
    history = Question("the moon ?", history=["hello how are you ?", "well"])
    assert (
        ask(client, turns).choices[0].message.content.strip()
        == answer_all(LoadedModel(model, encoding), [history], max_new_tokens=12)[0]
    )


def test_content_parts_are_one_text(client):
    parts = [{"type": "text", "text": "hello how "}, {"type": "text", "text": "are you ?"}]
    assert ask(client, [{"role": "user", "content": parts}]).choices == ask(client).choices
    picture = [{"type": "image_url", "image_url": {"url": "data:,"}}]
    with pytest.raises(openai.BadRequestError, match=r"messages.0.content.0: image_url is not supported"):
        ask(client, [{"role": "user", "content": picture}])


@pytest.mark.parametrize(
    "text", ["<|endoftext|>", "<|im_start|>system\n", "### Response:\n<|im_end|></s>", "\ue0000\ue001"]
)
def test_a_templates_marks_are_plain_text_when_people_write_them(client, assistant, text):
    model, encoding = assistant
    tokens = prompt_tokens(encoding, model.chat, [Message("user", text)])
    assert ask(client, [{"role": "user", "content": text}]).usage.prompt_tokens == len(tokens)
    assert not set(encoding._special_tokens.values()) & set(tokens)
    completed = client.completions.create(model="foundation", prompt=text, max_tokens=1)
    assert completed.usage.prompt_tokens == len(encoding.encode_ordinary(text))


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
    with pytest.raises(
        openai.NotFoundError, match="model 'unknown' is not registered; those are: assistant, classifier"
    ):
        client.models.retrieve("unknown")


INVALID, UNKNOWN, TOO_LONG = "invalid_request", "model_not_found", "context_length_exceeded"


def turn(role, content):
    return [{"role": role, "content": content}]


@pytest.mark.parametrize(
    ("options", "code", "param", "reason"),
    [
        ({"model": "gpt-4"}, UNKNOWN, "model", "'gpt-4' is not registered; those are: assistant,"),
        ({"model": "assistant@x"}, UNKNOWN, "model", "has no x; its versions are: 2 challenger, 1 champion"),
        ({"model": "foundation"}, "unsupported_model", "model", "foundation/1 can't chat; models that can: assistant"),
        ({"max_tokens": 600}, TOO_LONG, "messages", "with 600 new ones it does not fit the context of 512"),
        ({"messages": turn("user", "x" * 300_000)}, TOO_LONG, "messages", "300000 characters"),
        ({"messages": turn("assistant", "x")}, INVALID, "messages", "last message is not the user's"),
        ({"messages": turn("tool", "x")}, INVALID, "messages.0.role", "'system', 'developer'"),
        ({"temperature": 3}, INVALID, "temperature", "less than or equal to 2"),
        ({"n": 13}, INVALID, "n", "13 texts in one request; at most 12 have room"),
        ({"top_logprobs": 2}, INVALID, None, "top_logprobs needs logprobs: true"),
        ({"guided_json": {}}, INVALID, "guided_json", "guided_json is not known"),
        ({"temprature": 1}, INVALID, "temprature", "temprature is not known; did you mean temperature?"),
        ({"messages": turn("user", [{"type": "text", "text": "x", "t": 1}])}, INVALID, "messages.0.content.0.t", ""),
        ({"messages": [HELLO[0] | {"tool_calls": [{}]}]}, INVALID, "messages.0.tool_calls", "is not supported"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_the_clients_own_exception_with_a_reason(client, options, code, param, reason):
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
    ids=lambda part: next(iter(part)),
)  # fmt: skip
def test_what_would_change_the_answer_and_is_not_done_is_refused_by_name(client, part):
    with pytest.raises(openai.BadRequestError, match=f"{next(iter(part))} is not supported") as raised:
        ask(client, extra_body=part)
    assert raised.value.param == next(iter(part))


def test_a_completions_own_unsupported_parts_are_refused(client):
    for part in ({"echo": True}, {"suffix": "x"}, {"best_of": 3}, {"logprobs": 3}):
        with pytest.raises(openai.BadRequestError, match=f"{next(iter(part))} is not supported"):
            client.completions.create(model="foundation", prompt="x", **part)
    with pytest.raises(openai.BadRequestError, match="the prompt is empty"):
        client.completions.create(model="foundation", prompt="")
    with pytest.raises(openai.BadRequestError, match="token 320 is not one of the model's"):
        client.completions.create(model="foundation", prompt=[1, 320])
    with pytest.raises(
        openai.BadRequestError, match="classifier/1 can't complete; models that can: foundation, assistant"
    ):
        client.completions.create(model="classifier", prompt="x")
    with pytest.raises(openai.BadRequestError, match="does not fit the context of 512") as raised:
        client.completions.create(model="assistant", prompt="x", max_tokens=512)
    assert (raised.value.code, raised.value.param) == ("context_length_exceeded", "prompt")


def test_what_asks_for_nothing_or_changes_nothing_is_taken(client):
    nothing = {"tools": None, "logit_bias": {}, "presence_penalty": 0, "response_format": {"type": "text"}}
    nothing |= {"tool_choice": "auto", "verbosity": "medium", "stream_options": None}
    beside = {"user": "me", "metadata": {"a": "b"}, "store": False, "parallel_tool_calls": True, "service_tier": "auto"}
    beside |= {"safety_identifier": "me", "prompt_cache_key": "k", "prompt_cache_retention": "24h"}
    named = [HELLO[0] | {"name": "Anna"}]
    assert ask(client, named, extra_body=nothing | beside).choices == ask(client).choices
    chunks = ask(client, stream=True, stream_options={"include_usage": True, "include_obfuscation": False})
    assert [*chunks][-1].usage == ask(client).usage


def test_an_answer_of_the_official_client_is_taken_as_a_turn(client):
    talk = [*HELLO, ask(client).choices[0].message, *HELLO]
    written = [*HELLO, {"role": "assistant", "content": talk[1].content}, *HELLO]
    assert ask(client, talk).choices == ask(client, written).choices
    whole = [*HELLO, talk[1].model_dump(), *HELLO]  # with each part that is null
    assert ask(client, whole).choices == ask(client, written).choices


def test_a_request_without_a_place_is_refused_and_answered_later(server, client):
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
def test_a_client_that_leaves_frees_its_place_whether_it_runs_or_waits(server, client, stream, ahead):
    url = f"{server}/v1/chat/completions"
    with stepwise() as steps:
        others = [iter(ask(client, stream=True, n=ahead))] if ahead else []
        for other in others:
            next(other)
        before = running_texts(server)
        written = samples(server).get(("threestage_tokens_total", "threestage-assistant/1"), 0)
        body = {"messages": HELLO, "max_tokens": 400, "stream": stream}
        if stream:
            with httpx.stream("POST", url, json=body, timeout=300) as answer:
                next(answer.iter_lines())
        else:
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(url, json=body, timeout=httpx.Timeout(300, read=0.5))
        wait_until(lambda: steps.let(1) or running_texts(server) == before or bool(ahead), 120)
        assert samples(server)["threestage_tokens_total", "threestage-assistant/1"] - written < 400
        steps.open()
        assert all(list(other) for other in others)
    wait_until(lambda: running_texts(server) == 0, 120)
    assert ask(client).choices


def test_an_answer_that_takes_too_long_is_504_or_an_event(server, client, change_settings):
    change_settings(request_seconds=0.001)
    with pytest.raises(openai.InternalServerError) as raised:
        ask(client, max_tokens=400)
    assert (raised.value.status_code, raised.value.code) == (504, "timeout")
    # else OpenAI's clients have everything computed three times
    assert raised.value.response.headers["x-should-retry"] == "false"
    with pytest.raises(openai.APIError, match="took longer"):
        list(ask(client, stream=True, max_tokens=400))
    wait_until(lambda: running_texts(server) == 0, 120)


def test_a_model_that_fails_is_500_or_an_event_and_answers_the_next(server, client):
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
    wait_until(lambda: running_texts(server) == 0, 60)


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
