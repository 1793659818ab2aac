"""Registered versions in memory: loaded when asked for, swapped when their alias moves.

A version that is swapped out answers what it began, and then goes.
"""

import asyncio
import logging
import math
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import tiktoken
from mlflow.exceptions import MlflowException
from torch import nn

from app.async_engine import AsyncEngine
from app.cleaning import Cleaner
from app.errors import Busy, NotFound, Unavailable
from app.registry import BY_DEFAULT, Named, Registry, models_of
from app.settings import Settings
from llm.errors import UserError
from llm.formats.model_folder import read_config
from llm.model.gpt import GPT
from llm.objectives import load_for_inference
from tasks.registry.versions import registered_name

DATASET = "data/processed/"
KEPT = 4
"""Versions that stay loaded; one more sends off the one that was asked for least lately. Defaults stay in any case, and
one beside them."""
GRACE = 10.0
"""Seconds in which one that is let go still takes texts, of requests that were given it before."""
ENDING = "the server is ending"

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Loaded:
    """A version in memory."""

    named: Named
    objective: str
    model: nn.Module
    encoding: tiktoken.Encoding
    folder: Path
    removed: ExitStack
    """Removes its files, where they came from a server."""
    dataset: str | None
    """The dataset that it learned from, whose inbox takes what people say of its answers."""
    engine: AsyncEngine | None
    """Of a model that writes text."""
    cleaner: Cleaner
    """Reads the mails that are to be classified."""
    client_share: float = 1.0
    """Of the requests that may wait for the classifier, what one client network may have."""
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by the request whose mails are read now; the next waits for it without a thread."""
    classifying: list[str | None] = field(default_factory=list)
    """Requests whose mails are read or classified, or that wait for it, by their client network."""
    asked: float = field(default_factory=time.monotonic)

    @property
    def registered_name(self) -> str:
        """The name in the registry, with the version."""
        return f"{registered_name(self.named.model)}/{self.named.version}"

    @contextmanager
    def classified_by(self, most: int, network: str | None = None) -> Iterator[None]:
        """While a request has mails read, or waits for its `turn`.

        Raises Busy where `most` do already, or its network's share of them.
        """
        own, share = self.classifying.count(network), max(1, int(self.client_share * most))
        if len(self.classifying) >= most:
            raise Busy(f"{len(self.classifying)} requests wait for {self.named} already", retry_after=1)
        if network is not None and own >= share:
            raise Busy(f"{own} requests of your network wait for {self.named} already", retry_after=1)
        self.classifying.append(network)
        try:
            yield
        finally:
            self.classifying.remove(network)


class Versions:
    """The versions of a registry. All of it may block, on the registry or on loading: call it in a thread."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._loaded: dict[Named, Loaded] = {}
        self.registry = Registry()
        self._answered: dict[str, Named] = {}
        self._wanted: set[Named] = set()
        self._failed: dict[Named, tuple[float, Unavailable]] = {}
        self._leaving: set[Loaded] = set()
        self._cleaner = Cleaner()
        self._lock = threading.Lock()  # of what is loaded or leaving, and of who answered
        self._loading = threading.Lock()
        self._ending = threading.Event()

    def defaults(self, objectives: Sequence[str]) -> dict[str, str | None]:
        """Each model of these objectives with the version that answers by its name and the alias that it has, or with
        None where it is not loaded yet; as of when the registry was last read."""
        found: dict[str, str | None] = {}
        for model in models_of(self.registry.known, objectives):
            with self._lock:
                named = self._answered.get(model)
                there = named in self._loaded
            aliases = next((each.aliases for each in self.registry.known if each.named == named), ())
            alias = next((alias for alias in BY_DEFAULT if alias in aliases), None)
            found[model] = ", ".join(filter(None, (str(named), alias))) if there else None
        return found

    def at_hand(self, name: str) -> Loaded | None:
        """The version that a name means, where it is loaded. Raises as `find`.

        Where an alias has moved to a version that is not loaded, what answered before goes on: `refresh` loads it.
        """
        named = self.registry.find(name)
        with self._lock:
            loaded = self._loaded.get(named) or self._loaded.get(self._answered.get(name))
            if loaded:  # at once, so that it is not let go in between
                self._answered[name], loaded.asked = loaded.named, time.monotonic()
        return loaded

    def get(self, name: str) -> Loaded:
        """The same, loaded if need be. Raises as `find`, and Unavailable where it can't be loaded."""
        if loaded := self.at_hand(name):
            return loaded
        named = self.registry.find(name)
        loaded = self.load(named)
        with self._lock:
            if named in self._loaded:
                self._answered[name], loaded.asked = named, time.monotonic()
        self._make_room()
        return loaded

    def load(self, named: Named) -> Loaded:
        """A version in memory; one that is not there yet is loaded while others answer.

        Raises Unavailable where it can't be; that is tried again after `poll_seconds`.
        """
        with self._lock:
            loaded = self._loaded.get(named)
        if loaded is None:
            with self._loading:
                with self._lock:
                    loaded = self._loaded.get(named)
                if loaded is None:
                    loaded = self._try(named)
                    with self._lock:
                        if ended := self._ending.is_set():
                            self._leaving.add(loaded)
                        else:
                            self._loaded[named] = loaded
                    if ended:  # while it was loaded
                        self._end(loaded, 0)
                        raise Unavailable(ENDING)
                    logger.info("%s is loaded", loaded.registered_name)
        return loaded

    def _try(self, named: Named) -> Loaded:
        if self._ending.is_set():
            raise Unavailable(ENDING)
        tried, error = self._failed.get(named, (-math.inf, None))
        if error and time.monotonic() - tried < self.settings.poll_seconds:
            raise Unavailable(str(error), error.param)
        try:
            loaded = self._load(named)
        except Unavailable as error:
            self._failed[named] = time.monotonic(), error
            raise
        self._failed.pop(named, None)
        return loaded

    def _load(self, named: Named) -> Loaded:
        settings, engine, removed = self.settings, None, ExitStack()
        try:
            record = self.registry.record(named)
            fetched = Path(removed.enter_context(TemporaryDirectory(prefix="threestage-version-")))
            folder = self.registry.files(named, fetched)
            objective = read_config(folder)["objective"]
            model, encoding = load_for_inference(folder)
            if isinstance(model, GPT):
                shape = {"rows": settings.rows, "queue": settings.queue, "context_length": settings.context_length}
                engine = AsyncEngine(model, **shape, share=settings.client_share)
        except (UserError, MlflowException, OSError) as error:
            removed.close()
            raise Unavailable(f"{named} can't be loaded: {' '.join(str(error).split())}", "model") from error
        except Exception as error:  # a bug, or no memory: other versions are loaded, and what answered before goes on
            removed.close()
            if named not in self._failed:
                logger.exception("%s can't be loaded", named)
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise Unavailable(f"{named} can't be loaded: {reason}", "model") from error
        deps = record.hashes.deps if record else {}
        dataset = next((path.removeprefix(DATASET) for path in deps if path.startswith(DATASET)), None)
        found = named, objective, model, encoding, folder, removed, dataset, engine, self._cleaner
        return Loaded(*found, settings.client_share)

    def refresh(self, objectives: Sequence[str]) -> None:
        """Load what answers by default for these objectives and what its alias has moved to; let go what is gone or
        replaced, and what is not asked for of late.

        One that can't be loaded leaves in place what answered before. Raises Unavailable for it when the rest is done.
        """
        listed, failed = self.registry.read(), []
        models, answering = models_of(listed, objectives), dict[str, Named | None]()
        with self._lock:
            self._answered = {name: each for name, each in self._answered.items() if each in self._loaded}
            before = set(self._answered.values())
            names = dict.fromkeys([*models, *self._answered])
        for name in names:
            try:
                named = self.registry.pick(name, listed)
                self.load(named)
            except NotFound:  # nobody made it champion or challenger, or not any more
                continue
            except Unavailable as error:
                named = self._answered.get(name)
                failed.append(f"{error}; {named} goes on" if named else str(error))
            with self._lock:
                answering[name] = named
                if named:
                    self._answered[name] = named
        self._wanted = {each for model in models if (each := answering.get(model))}
        self._make_room(before)
        if failed:
            raise Unavailable("; ".join(dict.fromkeys(failed)))

    def _make_room(self, before: Collection[Named] = ()) -> None:
        """Let go what was not asked for of late where there is more than KEPT, what is not in the registry any more,
        and of what answered `before` that for which nobody asks now by any name."""
        with self._lock:
            known = {each.named for each in self.registry.known} - (set(before) - set(self._answered.values()))
            others = [each for each in self._loaded.values() if each.named not in self._wanted]
            others.sort(key=lambda each: -each.asked)
            room = max(1, KEPT - len(self._wanted))
            gone = [each for place, each in enumerate(others) if place >= room or each.named not in known]
            for each in gone:
                del self._loaded[each.named]
            self._leaving.update(gone)
        for each in gone:
            threading.Thread(target=self._let_go, args=(each,), daemon=True).start()

    def _let_go(self, loaded: Loaded) -> None:
        self._ending.wait(GRACE)
        self._end(loaded, self.settings.request_seconds)

    def _end(self, loaded: Loaded, patience: float) -> None:
        if loaded.engine:
            loaded.engine.close(patience)
        deadline = time.monotonic() + patience
        while loaded.classifying and time.monotonic() < deadline:  # whose cleaning is read from its folder
            time.sleep(0.1)
        loaded.removed.close()
        with self._lock:
            self._leaving.discard(loaded)
        logger.info("%s is unloaded", loaded.registered_name)

    @property
    def loaded(self) -> list[Loaded]:
        """What is in memory."""
        with self._lock:
            return list(self._loaded.values())

    def close(self, patience: float) -> None:
        """Load nothing more, and let each version end what it began, `patience` seconds at most."""
        deadline = time.monotonic() + patience
        with self._lock:
            self._ending.set()
            here = [*self._loaded.values(), *self._leaving]
        threads = [threading.Thread(target=self._end, args=(each, patience)) for each in here]
        for thread in threads:
            thread.start()
        if self._loading.acquire(timeout=max(0.0, deadline - time.monotonic())):  # who loads now ends what it loaded
            self._loading.release()
        for thread in threads:
            thread.join()
        self._cleaner.close(max(0.0, deadline - time.monotonic()))
