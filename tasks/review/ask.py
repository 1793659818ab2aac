"""Let a version answer rows: `python -P ask.py FOLDER REQUEST ANSWERS`, in a process of its own.

It imports nothing of the project, so that the version answers with the code that it ships. If one of our modules comes
from elsewhere, this program says so and fails.
"""

import json
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd


def bits(served: Any, texts: list[str]) -> Iterator[float]:
    """The bits that a language model needs for each text, as the beginning of a document."""
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


def answer(model: Any, ask: str, rows: list[dict[str, Any]], *, options: dict[str, Any]) -> list[dict[str, Any]]:
    """An answer for each row, or the reason why there is none in `error`."""
    if ask == "bits":
        texts = [row["text"] for row in rows]
        return [{"bits": count} for count in bits(model.unwrap_python_model(), texts)]
    table = model.predict(pd.DataFrame(rows, dtype=object), params=options or None)
    return table.astype(object).where(table.notna(), None).to_dict("records")


def foreign(folder: Path) -> list[str]:
    """Modules that the version should ship but that came from elsewhere."""
    files = {name: getattr(sys.modules.get(name), "__file__", None) for name in ("llm", "tasks")}
    outside = {name: file for name, file in files.items() if file and not Path(file).resolve().is_relative_to(folder)}
    return [f"{name} of {file}" for name, file in outside.items()]


def main() -> None:
    """Read the request, load the version, answer, and write the answers with their seconds."""
    folder, request, reply = Path(sys.argv[1]).resolve(), json.loads(Path(sys.argv[2]).read_text()), Path(sys.argv[3])
    model = mlflow.pyfunc.load_model(str(folder))
    rows, ask, options = request["rows"], request["ask"], request["options"]
    answer(model, ask, rows[:1], options=options)  # warm-up: the first answer prepares what the others reuse
    begun = time.perf_counter()
    answers = answer(model, ask, rows, options=options)
    seconds = time.perf_counter() - begun
    if strangers := foreign(folder):
        sys.exit(f"it does not ship all of its code: {', '.join(strangers)}")
    reply.write_text(json.dumps({"rows": answers, "seconds": seconds}, default=lambda value: value.item()))


if __name__ == "__main__":
    main()
