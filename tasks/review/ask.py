"""A registered version answers rows: `python -P ask.py URI REQUEST ANSWERS`, a process of its own for each version.

Stands alone, so that what answers is the code that the version ships: nothing of ours is imported but from the version,
and where something else came in after all, it says so and fails.
"""

import gc
import json
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    gc.disable()  # until the version is loaded: to look for garbage among imports takes a sixth of all the time

import mlflow
import pandas as pd

CHUNK = 32  # rows that are asked at once, and timed
AWAY = 69  # an exit code: EX_UNAVAILABLE of sysexits.h


def fetched(uri: str) -> Path:
    """The folder of a version. Ends this process with AWAY where its store does not give it now, and may later."""
    try:
        return Path(mlflow.artifacts.download_artifacts(uri)).resolve()
    except Exception as error:  # whatever a store's client raises
        if isinstance(error, FileNotFoundError) or getattr(error, "error_code", "") == "RESOURCE_DOES_NOT_EXIST":
            raise
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        sys.exit(AWAY)


def bits(served: Any, texts: list[str]) -> Iterator[float]:
    """The bits in which a language model writes each text, which begins a document."""
    import torch

    from llm.tokenizer import end_of_text

    model, encoding = served.model, served.encoding
    context = model.config.context_length
    for text in texts:
        tokens, nats = [end_of_text(encoding), *encoding.encode_ordinary(text)], 0.0
        for first in range(0, len(tokens) - 1, context):
            window = torch.tensor(tokens[first : first + context + 1])
            with torch.inference_mode():
                logits_TV = model(window[None, :-1])[0].float()
            nats += torch.nn.functional.cross_entropy(logits_TV, window[1:], reduction="sum").item()
        yield nats / math.log(2)


def answer(model: Any, ask: str, rows: list[dict[str, Any]], options: dict[str, Any]) -> list[dict[str, Any]]:
    """A row each; one that can't be answered has its reason in `error`."""
    if ask == "bits":
        return [{"bits": each} for each in bits(model.unwrap_python_model(), [row["text"] for row in rows])]
    table = model.predict(pd.DataFrame(rows, dtype=object), params=options or None)
    return table.astype(object).where(table.notna(), None).to_dict("records")


def foreign(folder: Path) -> list[str]:
    """Modules of the names that versions ship which came from elsewhere."""
    found = {name: getattr(sys.modules.get(name), "__file__", None) for name in ("llm", "tasks")}
    return [
        f"{name} of {file}" for name, file in found.items() if file and not Path(file).resolve().is_relative_to(folder)
    ]


def main() -> None:
    """Read the request, load the version, answer, and write the answers with the seconds of each chunk."""
    uri, request, answers = sys.argv[1], json.loads(Path(sys.argv[2]).read_text()), Path(sys.argv[3])
    folder = fetched(uri)
    model = mlflow.pyfunc.load_model(str(folder))
    rows, ask, options = request["rows"], request["ask"], request["options"]
    answer(model, ask, rows[:1], options)  # what is done once is no part of what a row takes
    gc.freeze()
    gc.enable()
    found: list[dict[str, Any]] = []
    seconds: list[float] = []
    for first in range(0, len(rows), CHUNK):
        begun = time.perf_counter()
        found += answer(model, ask, rows[first : first + CHUNK], options)
        seconds.append(time.perf_counter() - begun)
    if strangers := foreign(folder):
        sys.exit(f"it does not ship all of its code: {', '.join(strangers)}")
    answers.write_text(
        json.dumps({"rows": found, "seconds": seconds, "chunk": CHUNK}, default=lambda value: value.item())
    )


if __name__ == "__main__":
    main()
