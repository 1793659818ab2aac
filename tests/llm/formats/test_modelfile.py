"""The Modelfile's template, filled in by Go's text/template, as Ollama does it."""

import json
import re
import shutil
import subprocess

import pytest
from projects import CHATML

from llm.chat import TEMPLATE, Chat, Message, prompt_tokens
from llm.errors import UserError
from llm.formats.modelfile import go_template, modelfile, turn_forms
from llm.tokenizer import decode

GO = """package main

import ("encoding/json"; "os"; "text/template")

type Message struct { Role, Content string }
type Case struct { Template string; Messages []Message }

func main() {
    var cases []Case
    if err := json.NewDecoder(os.Stdin).Decode(&cases); err != nil { panic(err) }
    for _, c := range cases {
        template.Must(template.New("").Parse(c.Template)).Execute(os.Stdout, c)
        os.Stdout.WriteString("\\x00")
    }
}
"""
TALK = [
    Message("system", 'Be "kind".'),
    Message("user", "the {{ cat }}\n"),
    Message("assistant", "sat é"),
    Message("user", "on \\n the mat"),
]
TALKS = [TALK[:2], TALK, [*TALK, Message("assistant", ""), Message("user", "why?")]]
PROMPT_AHEAD = CHATML.replace(
    "{% for", "{% if messages[0].role != 'system' %}<|im_start|>system\nHi<|im_end|>\n{% endif %}{% for", 1
)
UNUSUAL = CHATML.replace("<|im_end|>", r'<|im_end|> 😀é \u2028\x7f\x01\\u0041`"')
LAST_TURN_DIFFERS = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% if loop.last %}!{% endif %}{% endfor %}"


@pytest.mark.slow
def test_go_template_writes_the_prompts_that_the_model_learned(tmp_path, chatml):
    if shutil.which("go") is None:
        pytest.skip("Go is not installed")
    (tmp_path / "fill.go").write_text(GO)
    cases = []
    expected = []
    for template in (CHATML, TEMPLATE, PROMPT_AHEAD, UNUSUAL):
        chat = Chat(template=template)
        filled = go_template(turn_forms(chatml, chat))
        for talk in TALKS:
            cases.append({"Template": filled, "Messages": [message._asdict() for message in talk]})
            expected.append(decode(chatml, prompt_tokens(chatml, chat, talk)))
    command = ["go", "run", "fill.go"]
    done = subprocess.run(command, cwd=tmp_path, input=json.dumps(cases), capture_output=True, text=True, check=True)
    assert done.stdout.split("\0")[:-1] == expected


def test_go_template_has_unicode_as_escapes_of_go_and_no_surrogates(chatml):
    filled = go_template(turn_forms(chatml, Chat(template=UNUSUAL)))
    assert r'{{ "<|im_end|> \U0001f600\U000000e9 \U00002028\U0000007f\u0001\\u0041`\"\n" }}' in filled
    assert filled.isascii()


def test_modelfile_has_the_system_prompt_the_end_of_a_turn_and_the_licence(chatml):
    def written(chat: Chat) -> str:
        return modelfile("cat.gguf", chatml, chat, context_length=64, licence="mit")

    text = written(Chat(template=CHATML, system="Be kind."))
    assert text.startswith('FROM ./cat.gguf\nTEMPLATE """')
    settings = ['SYSTEM """Be kind."""', 'PARAMETER stop """<|im_end|>"""', "PARAMETER temperature 0"]
    assert text.splitlines()[2:] == [*settings, "PARAMETER num_ctx 64", 'LICENSE """mit"""']
    assert 'SYSTEM """Hi"""' in written(Chat(template=PROMPT_AHEAD)), "the template's own default"
    assert "SYSTEM" not in re.sub("TEMPLATE.*", "", written(Chat(template=CHATML)))


def test_modelfile_refuses_a_template_whose_turns_differ_by_their_place(chatml):
    with pytest.raises(UserError, match="can't be written turn by turn"):
        modelfile("cat.gguf", chatml, Chat(template=LAST_TURN_DIFFERS), context_length=64, licence="mit")
