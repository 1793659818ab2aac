"""Answers of random weights that follow a JSON schema: what they say is noise, their form is not."""

import json

import jsonschema
import pytest

from llm.errors import UserError
from llm.generation.grammar import json_text
from llm.generation.request import Request
from llm.generation.sampling import Sampling
from llm.generation.text import run
from llm.tokenizer import decode, stop_tokens

CAT = {
    "type": "object",
    "properties": {
        "name": {"enum": ["Tom", "Mia"]},
        "age": {"type": "integer", "minimum": 0, "maximum": 30},
        "hungry": {"type": "boolean"},
        "toys": {"type": "array", "items": {"enum": ["ball", "mouse"]}, "maxItems": 2},
    },
    "required": ["name", "age", "hungry", "toys"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def gpt(make_gpt, encoding):
    return make_gpt(context_length=128, vocabulary_size=encoding.n_vocab + 3)  # as padded vocabularies are


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=2.0, top_p=0.9, text_penalty=1.2, seed=3)])
def test_answer_follows_the_schema_and_its_neighbour_is_as_alone(gpt, encoding, sampling):
    ends = stop_tokens(encoding)
    constraint = json_text(encoding, CAT, ends=ends, rows=gpt.config.vocabulary_size)
    prompt = encoding.encode_ordinary("the cat")
    free = Request(prompt, 20, sampling=sampling)
    bound = Request(prompt, 100, sampling=sampling, stop_tokens=ends, constraint=constraint)
    answers = run(gpt, [free, bound, bound])
    cat = json.loads(decode(encoding, answers[1].tokens))
    jsonschema.validate(cat, CAT)
    assert len(answers[1].tokens) < 100, "the end of the object ends the text"
    assert answers[2].tokens == answers[1].tokens, "each text has a state of its own"
    assert answers[0].tokens == run(gpt, [free])[0].tokens


@pytest.mark.parametrize("schema", [{"type": "nonsense"}, {"$ref": "#/nowhere"}, {"type": "string", "pattern": "("}])
def test_schema_that_cannot_be_followed_is_an_error_on_one_line(encoding, schema):
    with pytest.raises(UserError, match=r"^the JSON schema can't be followed: .+$"):
        json_text(encoding, schema, ends=stop_tokens(encoding), rows=encoding.n_vocab)
