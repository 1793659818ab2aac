"""OpenAI's official client, and the models that the shared server answers with."""

import openai
import pytest

from llm.objectives import load_for_inference


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
