import pytest
import torch
from model_shapes import LLAMA, SHORT_SCALING
from projects import CHATML
from published import TOKENS, difference
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from llm.chat import TEMPLATE, Chat, Message, end_of_turn, prompt_tokens
from llm.config import GPTConfig
from llm.formats.export_huggingface import export_huggingface
from llm.formats.huggingface import load_pretrained
from llm.formats.published_files import GGUF_LAYOUTS, LAYOUTS
from llm.formats.tokenizer_files import read_chat_template
from llm.loaded_model import LoadedModel
from llm.tokenizer import stop_tokens

OURS = [
    {},
    {"n_hidden": 40, "norm_epsilon": 1e-3, "tied": False},
    LLAMA | {"n_head": 4, "n_kv_head": 2, "tied": False, "rotary_scaling": SHORT_SCALING, "rotary_base": 10.0},
    LLAMA | {"bias": True, "n_kv_head": 1, "rotary_base": 300.0, "n_hidden": 22},
    LLAMA | {"qkv_bias": True},
    LLAMA | {"qk_norm": True, "norm_epsilon": 0.1, "n_embd": 24, "n_head": 4, "n_kv_head": 2, "tied": False},
    LLAMA | {"qk_norm": True, "qk_norm_weight": True, "head_size": 10, "n_kv_head": 1},
]


def test_layouts_map_or_fix_every_field_of_the_config():
    free = {"GPT-2": {"n_kv_head", "rotary_base"}, "Qwen3": {"qk_norm_weight"}, "GGUF's qwen3": {"qk_norm_weight"}}
    for layout in (*LAYOUTS.values(), *GGUF_LAYOUTS.values()):
        fields = free.get(layout.name, set()) | {"dropout"}
        assert layout.keys.keys() | layout.fixed.keys() | fields == GPTConfig.model_fields.keys(), layout.name


@pytest.mark.parametrize("shape", OURS)
@torch.inference_mode()
def test_exported_model_is_the_same_in_transformers_and_comes_back_bit_for_bit(tmp_path, make_gpt, encoding, shape):
    model, folder = make_gpt(**shape), tmp_path / "exported"
    export_huggingface(folder, LoadedModel(model, encoding))
    theirs, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert difference(model(TOKENS), theirs.eval()(TOKENS).logits) <= 1e-4
    assert tokenizer.eos_token_id == encoding.eot_token == theirs.config.eos_token_id
    again, encoding_again = load_pretrained(folder)
    torch.testing.assert_close(again.state_dict(), model.state_dict(), rtol=0, atol=0)
    written_out = {"n_kv_head": again.config.n_kv_head, "n_hidden": model.config.hidden_width}
    assert again.config == model.config.model_copy(update=written_out)
    text = "  a bird,\n\n\tsang 12345 'tis ünïcödé 🐈 "
    assert tokenizer.encode(text, add_special_tokens=False) == encoding.encode_ordinary(text)
    assert encoding_again.encode_ordinary(text) == encoding.encode_ordinary(text)
    assert read_chat_template(folder) is None


@pytest.mark.parametrize("shape", [{"bias": False}, {"norm": "rms"}, {"n_kv_head": 1}, {"qk_norm": True}])
def test_export_refuses_a_shape_that_no_family_has(tmp_path, make_gpt, encoding, shape):
    with pytest.raises(ValueError, match=r"is none of GPT-2's .*, Llama's .*, Qwen3's"):
        export_huggingface(tmp_path / "out", LoadedModel(make_gpt(**shape), encoding))
    assert not (tmp_path / "out").exists()


BOS = "{{ bos_token }}{% for message in messages %}{{ message.content + eos_token }}{% endfor %}"
TALK = [
    Message("system", "the moon"),
    Message("user", "the cat"),
    Message("assistant", "sat é"),
    Message("user", "on the mat"),
]


@pytest.mark.parametrize("template", [CHATML, TEMPLATE, BOS], ids=["ChatML", "ours", "with a token that begins"])
def test_exported_chat_template_gives_transformers_the_same_prompts(tmp_path, make_gpt, chatml, template):
    chat = Chat(template=template, system='the "hat" é 🐈', text_penalty=1.1)
    folder = tmp_path / "assistant"
    gpt = make_gpt(**LLAMA, vocabulary_size=chatml.n_vocab)
    export_huggingface(folder, LoadedModel(gpt, chatml), chat, max_new_tokens=7)
    theirs = AutoTokenizer.from_pretrained(folder)
    for talk in (TALK, TALK[1:]):  # with a system prompt of its own, and without one
        messages = [message._asdict() for message in talk]
        tokens = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert tokens == prompt_tokens(chatml, chat, talk)
        assert tokens == prompt_tokens(chatml, Chat(template=read_chat_template(folder)), talk)
    assert theirs.eos_token_id == end_of_turn(chatml, chat)
    generation = GenerationConfig.from_pretrained(folder)
    assert generation.repetition_penalty in (None, 1.0)  # theirs would count the prompt
    assert (generation.do_sample, generation.max_new_tokens) == (False, 7)
    assert set(generation.eos_token_id) == stop_tokens(chatml)  # where generate() stops
