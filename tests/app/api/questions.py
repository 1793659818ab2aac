"""Questions to the shared server by OpenAI's official client."""

from tests.app.conftest import talk

HELLO = talk(["hello how are you ?"])


def ask(client, messages=HELLO, **options):
    return client.chat.completions.create(**{"model": "assistant", "messages": messages, "max_tokens": 12} | options)


def say(client, text, **options):
    return ask(client, talk([text]), **options).choices[0].message.content
