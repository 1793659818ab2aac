"""Copies of this project's params.yaml with other values."""

from pathlib import Path
from typing import Any

import yaml
from projects import ROOT

OURS = ROOT / "params.yaml"
GONE = object()
"""The value of a key that is deleted."""


def write_params(folder: Path, changes: dict[str, Any]) -> Path:
    """Write params.yaml with other values under dotted keys, such as `datasets.emails.sources.0.name`."""
    values = yaml.safe_load(OURS.read_text())
    for dotted_key, value in changes.items():
        *parents, key = dotted_key.split(".")
        section = values
        for parent in parents:
            section = section[int(parent) if parent.isdigit() else parent]
        if value is GONE:
            del section[key]
        else:
            section[key] = value
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path
