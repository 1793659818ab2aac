"""A model whose forward passes a test lets go one by one, so that an answer lasts as long as the test likes."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from prometheus_client.parser import text_string_to_metric_families

from llm.kernels.serving.decode import Decoder
from llm.model.gpt import GPT
from tests.app.conftest import get


class Steps:
    """The forward passes of all models of this process."""

    def __init__(self) -> None:
        self._free = threading.Semaphore(0)
        self._open = False
        self._error = None

    def let(self, count: int) -> None:
        """So many may go on."""
        self._free.release(count)

    def fail_once(self, error: Exception) -> None:
        """The next one raises."""
        self._error = error

    def open(self) -> None:
        """All go on."""
        self._open = True
        self._free.release(1000)

    def take(self) -> None:
        """From a model."""
        if not self._open:
            self._free.acquire()
        error, self._error = self._error, None
        if error:
            raise error


@contextmanager
def stepwise() -> Iterator[Steps]:
    """No model makes a step but those that are let go; at the end all do."""
    steps = Steps()

    def stepped(hidden_states):
        def step(model, *args, **options):
            steps.take()
            return hidden_states(model, *args, **options)

        return step

    with pytest.MonkeyPatch.context() as patch:
        for kind in (GPT, Decoder):
            patch.setattr(kind, "hidden_states", stepped(kind.hidden_states))
        try:
            yield steps
        finally:
            steps.open()


def samples(address: str) -> dict[tuple[str, ...], float]:
    """What /metrics says, by name and labels."""
    text = get(address, "/metrics").raise_for_status().text
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def is_idle(address: str) -> bool:
    return running_texts(address) == 0


def running_texts(address: str) -> float:
    """Texts that a server's engines write or that wait for a row."""
    names = ("threestage_running", "threestage_waiting")
    return sum(value for (name, *_), value in samples(address).items() if name in names)
