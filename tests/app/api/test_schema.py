"""Every endpoint by its own OpenAPI schema: what fits it and what does not, from schemathesis.

Each run tries the same cases. One that ever fails for a reason of ours is kept here by hand, as a test of its own.
"""

from collections import Counter
from collections.abc import Callable

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.internal.conjecture import providers
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from app.feedback import Feedback
from app.settings import Settings

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
OPERATIONS = [
    *(("get", path) for path in ("/v1/models", "/v1/models/{name}", "/healthz", "/readyz", "/metrics")),
    *(("post", path) for path in ("/v1/chat/completions", "/v1/completions", "/v1/responses")),
    *(("post", path) for path in ("/classify", "/feedback")),
]
CASES = {"get": 10, "post": 60}
"""Of an operation."""
RIGHT = {
    "/feedback": (
        {"about": "email", "body": "hello", "label": "spam"},
        {"about": "answer", "messages": [{"role": "user", "content": "hello"}], "answer": "Hello.", "good": True},
    )
}
"""Bodies that are tried beside the drawn ones, most of which break a rule that no schema can say."""


@pytest.fixture(autouse=True)
def _same_cases(monkeypatch):
    """Hypothesis also draws what stands in the code of all modules that happen to be imported: here it does not."""
    monkeypatch.setattr(providers, "_get_local_constants", providers.Constants)
    providers.CONSTANTS_CACHE.cache.clear()
    yield
    providers.CONSTANTS_CACHE.cache.clear()


@pytest.fixture(scope="module")
def described(app, server, tmp_path_factory):
    """The schema of the shared server, with room for all feedback and all requests."""
    before = app.state.feedback, app.state.settings
    app.state.settings = before[1].model_copy(update={"queue": 400})
    app.state.feedback = Feedback(Settings(quarantine=tmp_path_factory.mktemp("fuzzed"), feedback_a_client=10**9))
    yield schemathesis.openapi.from_url(f"{server}/openapi.json")
    app.state.feedback, app.state.settings = before


def test_operations_of_the_schema_are_all_tried(described):
    operations = [result.ok() for result in described.get_all_operations()]
    assert {(operation.method.lower(), operation.path) for operation in operations} == set(OPERATIONS)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize("stream", [False, True])
def test_schema_holds_for_a_whole_answer_and_a_stream(described, path, stream):
    asked = {"messages": [{"role": "user", "content": "hello"}]} if "chat" in path else {"prompt": "hello"}
    body = asked | {"max_tokens": 3, "stream": stream}
    case = described[path]["post"].Case(body=body, media_type="application/json")
    answer = case.call(timeout=300)
    assert answer.status_code == 200
    case.validate_response(answer, checks=CHECKS[:-1])


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_schema_holds_for_answers_of_every_operation(described, method, path):
    operation, session, statuses = described[path][method], requests.Session(), Counter()

    def try_it(case):
        answer = case.call(session=session, timeout=300)
        statuses[answer.status_code] += 1
        case.validate_response(answer, checks=CHECKS)

    def try_drawn(case):
        shorten(case)
        try_it(case)

    right = RIGHT.get(path, ())
    for body in right:
        try_it(operation.Case(body=body, media_type="application/json"))
    assert statuses[200] == len(right)
    with_cases(operation, CASES[method], try_drawn)
    if method == "post":
        assert sum(statuses.values()) == CASES[method] + len(right)
        assert sum(count for status, count in statuses.items() if status < 500 and status != 200) > 10
        assert statuses[200] > 1, statuses
    assert not any(status >= 500 for status in statuses)


def with_cases(operation, count: int, try_it: Callable) -> None:
    """Try so many cases of an operation, or all where there are fewer."""

    @settings(
        max_examples=count,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.one_of([operation.as_strategy(mode) for mode in modes(operation)]))
    def check_case(case):
        try_it(case)

    check_case()


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/feedback", {"about": "email", "body": "hello", "label": "x" * 201}, 422),
        ("/feedback", {"about": "email", "body": "hello", "label": "spam", "model": "x" * 201}, 422),
        ("/classify", {"emails": [{"body": "hello"}], "model": "x" * 201}, 422),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hello"}], "model": "x" * 201}, 400),
        ("/v1/completions", {"prompt": "hello", "model": "x" * 201}, 400),
    ],
)
def test_schema_refuses_a_single_wrong_part(described, path, body, status):
    """Of cases that were tried with this part made right, and then not refused."""
    answer = described[path]["post"].Case(body=body, media_type="application/json").call(timeout=300)
    assert answer.status_code == status, answer.text


def modes(operation) -> list[GenerationMode]:
    """What has no parameters can't be asked for wrongly."""
    takes = operation.body or operation.path_parameters or operation.query
    return [GenerationMode.POSITIVE, GenerationMode.NEGATIVE] if takes else [GenerationMode.POSITIVE]


def shorten(case) -> None:
    """A long answer takes time; an unknown model and a talk that does not end with a question have no answer."""
    if not isinstance(case.body, dict):
        return
    if case.meta.generation.mode == GenerationMode.POSITIVE:
        if len(case.body.get("model") or "") % 2:
            case.body["model"] = None
        if "label" in case.body:
            case.body["label"] = "spam"
        if case.operation.path == "/v1/chat/completions":
            case.body["messages"].append({"role": "user", "content": "hello"})
    if case.operation.path not in ("/v1/chat/completions", "/v1/completions"):
        return
    for name in ("max_tokens", "max_completion_tokens"):
        if type(case.body.get(name)) is int and 3 < case.body[name] <= 1_000_000:  # more is to be refused as it is
            case.body[name] = 3
    if case.body.get("max_tokens") is None and case.body.get("max_completion_tokens") is None:
        case.body["max_tokens"] = 3
