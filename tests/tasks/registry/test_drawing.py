import re
from datetime import UTC, datetime
from xml.etree import ElementTree

import pytest

from tasks.registry.ancestry import Node
from tasks.registry.drawing import CHARACTERS, MARGIN, WIDTH, as_svg

SVG = "{http://www.w3.org/2000/svg}"
AT = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
HOSTILE = '</text><script>alert("1")</script> & \x07\u202e'


def source(name: str) -> Node:
    return Node("source", name, "ab" * 32)


def dataset(name: str, *names: str) -> Node:
    raw = Node("raw data", name, "r1.dir", {"size": "2 MB"}, tuple(map(source, names)))
    return Node("dataset", name, "d1.dir", {"made by": f"preprocess@{name}"}, (raw,))


CORPUS, EMAILS = dataset("corpus", "npm:speeches@2.0.0"), dataset("emails", "npm:mails@1.2.3", "file:own.jsonl")
BASE = Node("version", "threestage-foundation version 2", "m0.dir", {"aliases": ["champion"]}, (CORPUS, EMAILS))
ROOT = Node(
    "version",
    "threestage-classifier version 3",
    "88340270c4212d2f7c567b878cba6679.dir",
    {
        "aliases": ["champion", "previous"],
        "decisions": ["version 3 approved by reviewer-1, 2026-01-02T03:04:05+00:00: " + "better on ham " * 20],
        "git commit": "0123456789abcdef0123",
        "not in git": "params.yaml, steps 900 -> 20",
        "parameters": {"seed": 7, "steps": 20},
        "machine": HOSTILE,
    },
    (EMAILS, BASE),
)


def drawn(root: Node) -> ElementTree.Element:
    return ElementTree.fromstring(as_svg(root, AT))


def boxes(svg: ElementTree.Element) -> dict[str, tuple[float, float, float, float]]:
    """Left, top, right and bottom of each box, by the name in it."""
    found = {}
    for group in svg.iter(f"{SVG}g"):
        left, top, width, height = (float(group.find(f"{SVG}rect").get(name)) for name in ("x", "y", "width", "height"))
        (name,) = [text.text for text in group.iter(f"{SVG}text") if text.get("class") == "name"]
        kind = next(text.text for text in group.iter(f"{SVG}text") if text.get("class") == "kind")
        found[f"{kind} {name}"] = (left, top, left + width, top + height)
    return found


def texts(svg: ElementTree.Element, style: str | None = None) -> list[str]:
    return [text.text for text in svg.iter(f"{SVG}text") if style is None or text.get("class") == style]


def test_data_flows_from_the_left_to_the_version_on_the_right_and_no_box_covers_another():
    svg = drawn(ROOT)
    placed = boxes(svg)
    columns = [
        {"VERSION 3 threestage-classifier"},
        {"VERSION 2 threestage-foundation"},
        {"DATASET emails", "DATASET corpus"},
        {"RAW DATA emails", "RAW DATA corpus"},
    ]
    lefts = sorted({left for left, *_ in placed.values()}, reverse=True)
    assert [{name for name, box in placed.items() if box[0] == left} for left in lefts] == columns
    width, height = float(svg.get("width")), float(svg.get("height"))
    for name, (left, top, right, bottom) in placed.items():
        assert (left, top, right - left) >= (MARGIN, MARGIN, WIDTH)
        assert right <= width - MARGIN
        assert bottom <= height - MARGIN + 1
        for other, (x, y, far, low) in placed.items():
            assert name == other or right < x or far < left or bottom < y or low < top


def test_an_edge_begins_at_what_was_taken_and_ends_at_what_was_made():
    svg = drawn(ROOT)
    placed = boxes(svg)
    found = set()
    for edge in svg.iter(f"{SVG}path"):
        if edge.get("class") == "edge":
            numbers = [float(number) for number in re.findall(r"-?[\d.]+", edge.get("d"))]
            (x, y), (far, low) = numbers[:2], numbers[-2:]
            start = [name for name, box in placed.items() if x == box[2] and box[1] < y < box[3]]
            end = [name for name, box in placed.items() if far == box[0] - 1 and box[1] < low < box[3]]
            found.add((*start, *end))
    version, base = "VERSION 3 threestage-classifier", "VERSION 2 threestage-foundation"
    assert found == {
        ("DATASET emails", version),
        (base, version),
        ("DATASET emails", base),
        ("DATASET corpus", base),
        ("RAW DATA emails", "DATASET emails"),
        ("RAW DATA corpus", "DATASET corpus"),
    }


def test_a_box_says_what_a_reviewer_asks_in_lines_that_fit():
    svg = drawn(ROOT)
    said = texts(svg)
    for line in (
        "md5 88340270c421",
        "git commit 0123456789ab",
        "seed 7, steps 20",
        "npm:mails@1.2.3",
        "file:own.jsonl",
    ):
        assert line in said
    assert " ".join(texts(svg, "missing")) == "not in git: params.yaml, steps 900 -> 20"
    assert texts(svg, "alias") == ["champion", "previous", "champion"]
    assert said.count("sha256 abababababab") == 3
    assert any(line.endswith(" …") for line in said)  # a long reason
    top, at, *lines = said
    assert top == "What threestage-classifier version 3 was made from"
    assert at == "As of 2026-01-02 03:04 UTC"
    assert max(map(len, lines)) <= CHARACTERS


def test_text_from_elsewhere_is_text_and_the_same_graph_gives_the_same_bytes():
    assert '</text><script>alert("1")</script> &' in " ".join(texts(drawn(ROOT)))
    assert not list(drawn(ROOT).iter(f"{SVG}script"))
    assert as_svg(ROOT, AT) == as_svg(ROOT, AT)


@pytest.mark.parametrize("made_from", [(), (source("npm:mails@1.2.3"),)])
def test_a_version_of_which_nothing_more_is_known_is_one_box(made_from):
    root = Node("version", "threestage-classifier version 1", "m1.dir", {}, made_from)
    assert list(boxes(drawn(root))) == ["VERSION 1 threestage-classifier"]
