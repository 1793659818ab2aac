from tasks.registry.verdict import why
from tasks.stages.hashes import Hashes


def test_why_names_deps_then_parameters_then_libraries():
    then = Hashes({"torch": "2.12.0", "foundation.train": {"steps": 20, "seed": 1}}, {"data": "a", "llm": "b"}, {})
    now = Hashes({"torch": "2.13.0", "foundation.train": {"steps": 30, "seed": 1}}, {"data": "c", "llm": "b"}, {})
    assert why(then, now) == [
        "its dep data was a, here it is c",
        "parameter foundation.train.steps was 20, here it is 30",
        "library torch was 2.12.0, here it is 2.13.0",
    ]
    assert why(Hashes({}, {"data": "c"}, {}), now) == []  # of which no parameters are known
