"""Questions to the shared server by OpenAI's official client."""

from tests.app.conftest import talk

HELLO = talk(["hello how are you ?"])


def ask(client, messages=HELLO, **options):
    return client.chat.completions.create(**{"model": "assistant", "messages": messages, "max_tokens": 12} | options)


def say(client, text, **options):
    return content_of(ask(client, talk([text]), **options))


def content_of(answer) -> str:
    """The text of the first choice."""
    return answer.choices[0].message.content


def content_of_stream(chunks) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
