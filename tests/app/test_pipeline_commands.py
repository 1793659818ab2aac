"""`threestage run`, `review`, `lineage` and `reproduce` hand over to the flows of these names."""

import json

import pytest

from app.pipeline import FLOWS
from tests.app.conftest import error_of, shell

pytestmark = pytest.mark.slow

ECHO = "import json, sys; print(json.dumps(sys.argv[1:])); sys.exit({code})"


@pytest.mark.parametrize(
    ("command", "code", "arguments"),
    [
        ("run", 143, ["--verbose"]),
        ("review", 1, ["approve", "classifier/3", "--by=reviewer-1", "--reason", "-- two words"]),
        ("lineage", 0, ["models:/threestage-classifier@champion", "--json", "--svg", "a picture.svg"]),
        ("reproduce", 2, ["--help"]),
    ],
)
def test_a_flow_gets_all_arguments_and_gives_its_exit_code(tmp_path, registry, command, code, arguments):
    (tmp_path / "dvc.yaml").write_text("stages: {}")
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows/__init__.py").touch()
    name = "__main__" if command == "run" else command
    (tmp_path / f"flows/{name}.py").write_text(ECHO.format(code=code))
    done = shell(" ".join(["threestage", command, *map(repr, arguments)]), tmp_path, registry)
    assert json.loads(done.communicate()[0]) == arguments
    assert done.returncode == code


@pytest.mark.parametrize("command", FLOWS)
def test_outside_a_project_that_is_said(threestage, tmp_path, command):
    assert error_of(threestage(command)) == f"error: there is no dvc.yaml in {tmp_path}: go to the project's folder"
