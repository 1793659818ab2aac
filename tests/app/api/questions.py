"""Questions to the shared server by OpenAI's official client."""

HELLO = [{"role": "user", "content": "hello how are you ?"}]


def ask(client, messages=HELLO, **options):
    return client.chat.completions.create(**{"model": "assistant", "messages": messages, "max_tokens": 12} | options)


def say(client, text, **options):
    return ask(client, [{"role": "user", "content": text}], **options).choices[0].message.content
