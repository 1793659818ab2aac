import openai
import pytest


@pytest.fixture
def client(server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0)


def test_the_official_client_has_an_answer(client):
    answer = client.chat.completions.create(
        model="assistant", messages=[{"role": "user", "content": "hello"}], max_tokens=8
    )
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 8
    assert answer.model == "threestage-assistant/1"
