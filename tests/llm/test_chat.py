import pytest
from projects import CHATML
from pydantic import ValidationError

from llm.chat import Chat, Message, encode_chat, prompt_tokens, turn_ends
from llm.errors import UserError
from llm.formats.tokenizer_json import save_tokenizer
from llm.tokenizer import END_OF_TEXT, make_encoding, stop_tokens

TALK = [
    Message("system", "Be kind."),
    Message("user", "the cat"),
    Message("assistant", "sat"),
    Message("user", "on <|im_end|> the\n"),
]


LOOP = """{% for message in messages %}{% if message.role == 'system' %}
{{ bos_token }}{{ message.content }}{% continue %}{% endif %}
<|im_start|>{{ message.content }}<|im_end|>{% if loop.index > 9 %}{% break %}{% endif %}
{% endfor %}{% if add_generation_prompt %}<|im_start|>{% endif %}"""


@pytest.mark.parametrize("template", [CHATML, LOOP])
def test_prompt_tokens_are_those_of_transformers(chatml, tmp_path, template):
    from transformers import PreTrainedTokenizerFast

    path = tmp_path / "tokenizer.json"
    save_tokenizer(chatml, path)
    options = {"chat_template": template, "bos_token": "<|im_start|>"}
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(path), **options)
    talk = [Message(role, content.replace("<|im_end|>", "mat")) for role, content in TALK]
    messages = [message._asdict() for message in talk]
    expected = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert prompt_tokens(chatml, Chat(template=template), talk) == expected


def test_marker_that_a_person_types_is_text(chatml):
    tokens = prompt_tokens(chatml, Chat(template=CHATML), TALK)
    assert tokens.count(chatml.encode_single_token("<|im_end|>")) == len(TALK)
    assert "<|im_end|> the" in chatml.decode(tokens)


def test_default_system_prompt_comes_first_unless_a_conversation_has_its_own(chatml):
    chat = Chat(template=CHATML, system="the mat .")
    default = prompt_tokens(chatml, chat, [Message("user", "cat")])
    assert chatml.decode(default).startswith("<|im_start|>system\nthe mat .<|im_end|>\n<|im_start|>user\ncat")
    own = chatml.decode(prompt_tokens(chatml, chat, TALK))
    assert own.startswith("<|im_start|>system\nBe kind.")
    assert "mat ." not in own


HEADERS = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
LEARNED = {  # templates of each kind, and what is learned of ASKED and an answer
    "ChatML": (CHATML, ["sat", "<|im_end|>", "mat", "<|im_end|>"]),
    "ours": (Chat().template, ["sat", END_OF_TEXT, "mat", END_OF_TEXT]),
    "a header that add_generation_prompt does not ask for": (HEADERS, ["sat", "<|end|>", "mat", "<|end|>"]),
    "another header where it is asked for": (
        HEADERS + "{% if add_generation_prompt %}<|assistant|>\nWell, {% endif %}",
        ["sat", "<|end|>", "mat", "<|end|>"],
    ),
    "a turn that ends after a space": (
        "{% for m in messages %}{{ m.role }}: {{ m.content }} \n{{ eos_token }}{% endfor %}",
        ["sat", " \n" + END_OF_TEXT, "mat", " \n" + END_OF_TEXT],
    ),
    "nothing behind the last turn": (
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}",
        ["sat", "<|user|>", "mat", END_OF_TEXT],
    ),
    "no special token at all": (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}",
        ["sat", "mat", END_OF_TEXT],
    ),
    "thoughts in the last turn alone": (
        "{% for m in messages %}<|{{ m.role }}|>{% if loop.last %}Hm.{% endif %}{{ m.content }}<|end|>{% endfor %}",
        ["mat", "<|end|>"],
    ),
}
ASKED = [Message("user", "the cat"), Message("assistant", "sat"), Message("user", "on <|end|> the")]


@pytest.fixture(scope="module")
def marked(encoding):
    """The small tokenizer with the markers of all these."""
    names = (END_OF_TEXT, "<|im_start|>", "<|im_end|>", "<|end|>", "<|user|>", "<|assistant|>")
    special = {name: encoding.n_vocab - 1 + number for number, name in enumerate(names)}
    return make_encoding(encoding._pat_str, encoding._mergeable_ranks, special)


@pytest.mark.parametrize(("template", "learned"), LEARNED.values(), ids=LEARNED)
def test_template_asks_for_each_turn_as_it_is_learned_and_its_end_stops_it(marked, template, learned):
    chat = Chat(template=template)
    parts = encode_chat(marked, chat, [*ASKED, Message("assistant", "mat")])
    assert [marked.decode(part.tokens) for part in parts if part.learned and part.tokens] == learned
    before: list[int] = []
    prompts = []
    for part in parts:
        if part.learned and marked.decode(part.tokens) in ("sat", "mat"):
            prompts.append(before.copy())
        before += part.tokens
    expected = [prompt_tokens(marked, chat, ASKED[:1]), prompt_tokens(marked, chat, ASKED)]
    assert prompts == expected[-len(prompts) :]
    ends = {marked.encode_single_token(text.strip()) for text in learned if text not in ("sat", "mat")}
    usual_ends = {marked.encode_single_token(name) for name in (END_OF_TEXT, "<|im_end|>")}
    assert ends <= turn_ends(marked, chat) <= ends | usual_ends


def test_turn_ends_of_a_template_of_one_turn_alone(marked):
    once = "{{ messages[0].content }}<|assistant|>{{ messages[1].content }}<|end|>"
    assert marked.encode_single_token("<|end|>") in turn_ends(marked, Chat(template=once))
    refuses = "{{ raise_exception('no') }}"
    assert turn_ends(marked, Chat(template=refuses)) == stop_tokens(marked)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ messages[0].content }}", "does not say system, user, assistant, user, assistant once each"),
        ("{{ raise_exception('no system prompt here') }}", "no system prompt here"),
        ("{{ ''.__class__.__mro__ }}", "can't say"),
        ("{{ messages.append(1) }}", "can't say"),
        ("{{ 1 // 0 }}", "can't say"),
        ("{{ '{} {}'.format(1) }}", "can't say"),
        ("{{ '{a}'.format() }}", "can't say"),
        ("{% for n in range(999999999) %}{% endfor %}", "can't say"),
    ],
)
def test_template_that_leaves_turns_out_or_reaches_out_of_its_sandbox_is_an_error(chatml, template, reason):
    with pytest.raises(UserError, match=reason):
        prompt_tokens(chatml, Chat(template=template), TALK)


@pytest.mark.parametrize("template", ["{% for %}", "x" * 20_001])
def test_chat_refuses_an_invalid_template(template):
    with pytest.raises(ValidationError, match="template"):
        Chat(template=template)
