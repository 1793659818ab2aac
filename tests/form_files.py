"""Files in the forms in which people have their data."""

import csv
import io
import json
import tarfile
import zipfile
from pathlib import Path

import pandas as pd

Content = str | bytes


def put(folder: Path, files: dict[str, Content]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def json_lines(rows: list[dict]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def csv_table(rows: list[dict], **options: str) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, rows[0], **options)
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def parquet(rows: list[dict]) -> bytes:
    return pd.DataFrame(rows).to_parquet(index=False)


def zipped(files: dict[str, str]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def tarred(files: dict[str, str], mode: str = "w") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content.encode())
            archive.addfile(member, io.BytesIO(content.encode()))
    return stream.getvalue()
