"""One engine for all who ask, from asyncio: places, ends, failures."""

import asyncio
import logging

import pytest

from app.async_engine import AsyncEngine
from app.errors import Busy, Failed, RequestError
from llm.errors import UserError
from llm.generation.engine import Engine
from llm.generation.request import Request
from llm.generation.sampling import Sampling
from tests.app.steps import stepwise


@pytest.fixture
def make_engine(make_gpt):
    made = []

    def make(rows=2, queue=2, **shape):
        made.append(AsyncEngine(make_gpt(**shape), rows=rows, queue=queue))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


def tokens_alone(gpt, request) -> list[int]:
    """The tokens of a request in an engine of its own."""
    engine = Engine(gpt, 1)
    tokens = []
    engine.submit(request)
    while engine.busy:
        tokens += [event.token for event in engine.step() if event.token is not None]
    return tokens


async def read(stream) -> tuple[list[list[int]], list[str | None]]:
    """The tokens and the endings of a stream's requests."""
    texts = [[] for _ in stream.requests]
    ends = [None] * len(texts)
    async for number, event in stream:
        if event.token is not None:
            texts[number].append(event.token)
        ends[number] = event.ended
    return texts, ends


async def until(what) -> None:
    """Wait for something that comes from the engine's thread; only what hangs takes a minute."""
    async with asyncio.timeout(60):
        while not what():
            await asyncio.sleep(0.01)


def test_engine_gives_many_clients_what_each_would_have_alone(make_engine):
    engine = make_engine(rows=3, queue=99)
    requests = []
    for number in range(30):
        prompt = [number % 200 + 1] * (1 + number % 5)
        requests.append(Request(prompt, 1 + number % 12, Sampling(temperature=number % 2, seed=number)))

    async def clients():
        streams = [engine.submit(requests[first : first + 3]) for first in range(0, 30, 3)]
        return await asyncio.gather(*map(read, streams))

    texts = []
    endings = set()
    for client_texts, client_endings in asyncio.run(clients()):
        texts += client_texts
        endings |= set(client_endings)
    assert texts == [tokens_alone(engine.model, request) for request in requests]
    assert endings == {"length"}
    assert (engine.running, engine.waiting) == (0, 0)


def test_queue_accepts_all_texts_of_a_request_or_none(make_engine):
    engine = make_engine(rows=2, queue=1)

    async def clients():
        with stepwise() as steps:
            first = engine.submit([Request([1], 9)])
            with pytest.raises(Busy, match="1 requests run or wait already, and at most 3 may") as raised:
                engine.submit([Request([2], 9)] * 3)
            assert raised.value.retry_after >= 1
            second = engine.submit([Request([2], 9)] * 2)
            assert (engine.running, engine.waiting) == (2, 1)
            with pytest.raises(Busy):
                engine.submit([Request([3], 9)])
            steps.open()
            await asyncio.gather(read(first), read(second))
        assert (engine.running, engine.waiting) == (0, 0)
        await read(engine.submit([Request([3], 9)]))

    asyncio.run(clients())


def test_request_of_more_texts_than_places_is_refused_for_good(make_engine):
    engine = make_engine(rows=2, queue=1)

    async def client():
        with pytest.raises(RequestError, match="4 texts in one request; at most 3 have room") as raised:
            engine.submit([Request([3], 9)] * 4)
        assert not isinstance(raised.value, Busy)

    asyncio.run(client())


@pytest.mark.parametrize("request_", [Request([], 3), Request([1] * 30, 9), Request([9999], 3), Request([1], 0)])
def test_invalid_request_takes_no_place(make_engine, request_):
    engine = make_engine()

    async def client():
        with pytest.raises(UserError):
            engine.submit([Request([1], 2), request_])
        assert engine.running == 0

    asyncio.run(client())


def test_stream_stops_one_of_its_requests(make_engine):
    engine = make_engine(rows=2)

    async def client():
        with stepwise() as steps:
            stream = engine.submit([Request([1], 30), Request([2], 6)])
            stream.stop(0)
            steps.open()
            return await read(stream)

    (_, kept), ends = asyncio.run(client())
    assert ends == ["cancelled", "length"]
    assert kept == tokens_alone(engine.model, Request([2], 6))


def test_failed_step_reaches_waiting_clients_and_later_requests_are_answered(make_engine, caplog):
    engine = make_engine(rows=2, queue=2)

    async def clients():
        with stepwise() as steps:
            streams = [engine.submit([Request([1], 9)]), engine.submit([Request([2], 9)] * 2)]
            steps.let(1)
            await anext(streams[0])
            steps.fail_once(RuntimeError("no memory"))
            steps.open()
            for stream in streams:
                with pytest.raises(Failed, match="the model failed at this text; the server's log says why"):
                    await read(stream)
                assert [event async for event in stream] == []
        await until(lambda: engine.running == 0)  # a client hears of its first place's end before the others are free
        for _ in range(2):
            texts, ends = await read(engine.submit([Request([5, 6], 9)] * 2))
            assert texts == [tokens_alone(engine.model, Request([5, 6], 9))] * 2
            assert ends == ["length"] * 2

    with caplog.at_level(logging.ERROR, logger="app.async_engine"):
        asyncio.run(clients())
    assert "RuntimeError: no memory" in caplog.text


def test_client_whose_loop_is_gone_disturbs_nobody(make_engine):
    engine = make_engine(rows=2)

    async def leave():
        engine.submit([Request([1], 20)])

    asyncio.run(leave())

    async def client():
        await until(lambda: engine.running == 0)
        return await read(engine.submit([Request([2], 5)]))

    assert asyncio.run(client())[1] == ["length"]
