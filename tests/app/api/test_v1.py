"""/v1 answers as the models do: whole, as a stream, with options and log-probabilities."""

import openai
import pytest

from llm.chat import Message, prompt_tokens
from llm.generation.greedy import generate_greedily
from llm.objectives.assistant import Question, answer_all
from llm.tokenizer import decode
from tests.app.api.questions import HELLO, ask, content_of, content_of_stream, say
from tests.app.conftest import talk


def test_chat_answer_is_the_assistants_without_a_server(client, assistant):
    questions = ["hello how are you ?", "the cat sat", "ä ö ü 🐈 <|endoftext|>", "a bird\n\nsang " * 20]
    expected = answer_all(assistant, [Question(text) for text in questions], max_new_tokens=64)
    assert [say(client, text, max_tokens=64).strip() for text in questions] == expected
    assert len(set(expected)) > 2
    with pytest.raises(openai.BadRequestError, match="the last message has no text"):
        say(client, " \n")


def test_chat_answer_has_version_finish_reason_and_usage(client, assistant):
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
def test_stream_has_the_pieces_of_the_same_answer(client, n):
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


def test_stop_string_ends_a_text_also_across_tokens(client, assistant):
    text = say(client, "hello", max_tokens=40)
    stop = text[4:9]
    assert len(assistant.encoding.encode_ordinary(stop)) > 1
    options = {"max_tokens": 40, "stop": ["never", stop]}
    answer = ask(client, talk(["hello"]), **options)
    before = text[: text.find(stop)]
    assert content_of(answer) == say(client, "hello", max_tokens=40, stop=stop) == before
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens < 40
    chunks = list(ask(client, talk(["hello"]), stream=True, **options))
    assert content_of_stream(chunks) == before
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_choices_differ_and_repeat_with_their_seed(client):
    def texts(**options):
        answer = ask(client, n=4, temperature=1.0, max_tokens=30, **options)
        return [choice.message.content for choice in answer.choices]

    written = [text for text in texts() if text]  # one may end before its first word
    assert len(set(written)) == len(written) > 1
    seeded = texts(seed=3)
    assert seeded == texts(seed=3)
    assert len({*seeded, *texts(seed=-6)}) == 8
    assert ask(client, n=4, max_tokens=5).usage.completion_tokens == 20


def test_sampling_options_change_the_answer(client):
    def draw(**options):
        return say(client, "hello", max_tokens=30, extra_body=options)

    greedy = draw()
    assert draw(temperature=0) == greedy
    assert draw(temperature=1.5, seed=1) != greedy
    for bound in ({"top_p": 0}, {"top_p": 1e-9}, {"top_k": 1}):
        assert draw(temperature=1.5, seed=1, **bound) == greedy
    assert draw(text_penalty=5) != greedy


def test_logprobs_have_the_bytes_of_the_answer_whole_and_in_a_stream(client):
    options = {"logprobs": True, "top_logprobs": 4, "max_tokens": 8}
    answer = ask(client, **options)
    content = answer.choices[0].logprobs.content
    assert len(content) == answer.usage.completion_tokens > 2
    written = b"".join(bytes(entry.bytes) for entry in content)
    assert written.decode(errors="replace") == content_of(answer)
    for entry in content:
        assert entry.token == bytes(entry.bytes).decode(errors="replace")
        assert len(entry.top_logprobs) == 4
        first = entry.top_logprobs[0]  # as the likeliest token is chosen
        assert (first.token, first.bytes, first.logprob) == (entry.token, entry.bytes, entry.logprob)
    streamed = []
    for chunk in ask(client, stream=True, **options):
        logprobs = chunk.choices[0].logprobs
        streamed += logprobs.content if logprobs else []
    assert [entry.bytes for entry in streamed] == [entry.bytes for entry in content]
    assert ask(client, logprobs=True).choices[0].logprobs.content[0].top_logprobs == []
    assert ask(client).choices[0].logprobs is None


def test_completions_continue_texts_and_tokens_one_or_several(client, foundation):
    model, encoding = foundation
    tokens = encoding.encode_ordinary("the cat sat")

    def texts(prompt, **options):
        made = client.completions.create(model="foundation", prompt=prompt, **options)
        return [choice.text for choice in made.choices]

    expected = decode(encoding, generate_greedily(model, tokens, 16))
    assert texts("the cat sat") == texts(tokens) == [expected]  # 16 tokens, as OpenAI has it
    assert texts(["the cat sat", "a dog"]) == [expected, *texts("a dog")]
    assert texts([tokens, encoding.encode_ordinary("a dog")]) == [expected, *texts("a dog")]
    assert texts(["the cat sat", "a dog"], n=2) == [expected] * 2 + texts("a dog") * 2
    assert client.completions.create(model="assistant", prompt="the cat", max_tokens=3).usage.completion_tokens == 3


def test_prompt_has_earlier_turns_and_the_system_prompt(client, assistant):
    model, encoding = assistant
    system = {"role": "system", "content": "Say nothing but the truth, and be brief."}
    turns = talk(["hello how are you ?", "well", "the moon ?"])
    for messages in (turns, [system, *turns], [system, *HELLO]):
        expected = prompt_tokens(encoding, model.chat, [Message(**message) for message in messages])
        assert ask(client, messages).usage.prompt_tokens == len(expected)
    assert ask(client, [system | {"role": "developer"}, *HELLO]).usage == ask(client, [system, *HELLO]).usage
    assert ask(client, [system, *HELLO]).usage.prompt_tokens != ask(client).usage.prompt_tokens
    question = Question("the moon ?", history=["hello how are you ?", "well"])
    answers = answer_all(assistant, [question], max_new_tokens=12)
    assert [content_of(ask(client, turns)).strip()] == answers


def test_content_parts_are_one_text(client):
    parts = [{"type": "text", "text": "hello how "}, {"type": "text", "text": "are you ?"}]
    assert ask(client, talk([parts])).choices == ask(client).choices
    picture = [{"type": "image_url", "image_url": {"url": "data:,"}}]
    with pytest.raises(openai.BadRequestError, match=r"messages.0.content.*0: image_url is not supported"):
        ask(client, talk([picture]))


@pytest.mark.parametrize(
    "text", ["<|endoftext|>", "<|im_start|>system\n", "### Response:\n<|im_end|></s>", "\ue0000\ue001"]
)
def test_template_marks_are_plain_text_when_people_write_them(client, assistant, text):
    model, encoding = assistant
    tokens = prompt_tokens(encoding, model.chat, [Message("user", text)])
    assert ask(client, talk([text])).usage.prompt_tokens == len(tokens)
    assert not set(encoding._special_tokens.values()) & set(tokens)
    completed = client.completions.create(model="foundation", prompt=text, max_tokens=1)
    assert completed.usage.prompt_tokens == len(encoding.encode_ordinary(text))


def test_answer_of_the_official_client_is_accepted_as_a_turn(client):
    message = ask(client).choices[0].message
    expected = ask(client, talk([HELLO[0]["content"], message.content, HELLO[0]["content"]])).choices
    assert ask(client, [*HELLO, message, *HELLO]).choices == expected
    assert ask(client, [*HELLO, message.model_dump(), *HELLO]).choices == expected, "with each part that is null"
