"""The server's image without Docker: its packages alone, its files, its command and its check, in a scratch folder."""

import importlib.metadata
import json
import os
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from dockerfile import copied, of
from installed import with_requirements
from projects import ROOT, environment, free_ports
from real_servers import wait_for

pytestmark = pytest.mark.slow

GROUP = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]["serve"]
TRAINING = ["dvc", "great-expectations", "matplotlib", "mlflow", "prefect", "ray", "scikit-learn", "transformers"]
SETTINGS = ("MLFLOW_", "THREESTAGE_", "PYTHON", "XDG_", "HOME", "VIRTUAL_ENV")
CHAT = {"model": "assistant", "messages": [{"role": "user", "content": "the cat"}], "max_tokens": 4}
MAIL = {"emails": [{"subject": "Lunch", "body": "At <b>noon</b>?"}]}


def link_packages(names: set[str], site_packages: Path) -> None:
    """Link the files of some installed packages, and of no other, into a folder."""
    owners = importlib.metadata.packages_distributions()
    for name in names:
        for file in importlib.metadata.files(name) or []:
            top = file.parts[0]
            is_shared = len(set(owners.get(top, []))) > 1
            relative = Path(file) if is_shared else Path(top)
            link = site_packages / relative
            if top == ".." or link.exists():
                continue
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(importlib.metadata.distribution(name).locate_file(relative))


@dataclass(frozen=True)
class Image:
    """The server that runs as in its image."""

    address: str
    code: Path
    state: Path
    check: list[str]
    """The command of HEALTHCHECK."""
    process: subprocess.Popen[bytes]


@pytest.fixture(scope="module")
def image(registry: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    """The image's server over a registry in its volume."""
    folder = tmp_path_factory.mktemp("image")
    code = folder / "threestage"
    code.mkdir()
    for *sources, target in copied("app-build"):
        for source in sources:
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, code / target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / source, code)
    venv = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    (site_packages,) = venv.glob("lib/python*/site-packages")
    link_packages(with_requirements(GROUP), site_packages)
    (site_packages / "threestage.pth").write_text(f"{code}\n")
    program = venv / "bin/threestage"
    program.write_text(f"#!{venv}/bin/python\nfrom cli.main import main\nif __name__ == '__main__':\n    main()\n")
    program.chmod(0o755)
    state = shutil.copytree(registry, folder / "state")
    (port,) = free_ports(1)
    variables = {name: value for name, value in environment().items() if not name.startswith(SETTINGS)}
    variables |= {"PATH": f"{venv}/bin:{os.environ['PATH']}", "HOME": str(state)}
    (command,) = of("app", "CMD")
    words = [word.replace("0.0.0.0", "127.0.0.1") for word in json.loads(command)]
    (healthcheck,) = of("app", "HEALTHCHECK")
    check = [word.replace("8000", str(port)) for word in json.loads(healthcheck.partition("CMD ")[2])]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [*words, "--port", str(port)], cwd=state, env=variables, stdout=log, stderr=subprocess.STDOUT
        )
    address = f"http://127.0.0.1:{port}"

    def is_ready() -> bool:
        assert process.poll() is None, (folder / "log").read_text()
        try:
            return httpx.get(f"{address}/readyz").is_success
        except httpx.TransportError:
            return False

    wait_for(is_ready)
    yield Image(address=address, code=code, state=state, check=check, process=process)
    process.kill()
    process.wait()


def test_image_has_no_library_of_stages_and_trainings() -> None:
    assert with_requirements(GROUP).isdisjoint(TRAINING)


def test_image_answers_chat_mail_feedback_and_page_from_the_registry_in_its_volume(image: Image) -> None:
    subprocess.run([sys.executable, *image.check[1:]], check=True)
    chat = httpx.post(f"{image.address}/v1/chat/completions", json=CHAT, timeout=600)
    assert chat.json()["model"] == "threestage-assistant/1"
    schema = CHAT | {"response_format": {"type": "json_object"}}
    assert httpx.post(f"{image.address}/v1/chat/completions", json=schema, timeout=600).is_success
    verdict = httpx.post(f"{image.address}/classify", json=MAIL, timeout=600).json()["verdicts"][0]
    assert verdict["leaning"] in ("ham", "spam")
    feedback = {"about": "email", "subject": "Lunch", "body": "At noon?", "label": "ham"}
    reply = httpx.post(f"{image.address}/feedback", json=feedback, timeout=600)
    assert reply.is_success, reply.text
    for path in ("", "/docs", "/metrics"):
        assert httpx.get(image.address + path, timeout=600).is_success


def test_image_writes_to_its_volume_alone_and_ends_when_it_is_stopped(image: Image) -> None:
    before = sorted(path.relative_to(image.code) for path in image.code.rglob("*") if "__pycache__" not in path.parts)
    sources = [path for words in copied("app-build") for path in words[:-1]]
    assert {path.parts[0] for path in before} == {Path(source).name for source in sources}
    assert (image.state / "data/feedback/waiting.db").exists()
    image.process.send_signal(signal.SIGTERM)
    assert image.process.wait(timeout=600) == 0
