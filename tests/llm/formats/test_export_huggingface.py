import pytest
import torch
from projects import CHATML
from published import TOKENS, difference, make_tokenizer, publish
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from llm.chat import TEMPLATE, Chat, Message, end_of_turn, prompt_tokens
from llm.config import GPTConfig
from llm.formats.export_huggingface import export_huggingface
from llm.formats.families import GGUF_LLAMA, GGUF_QWEN3, GPT2, LLAMA, QWEN2, QWEN3
from llm.formats.huggingface import load_pretrained
from llm.formats.model_folder import load_model, save_model
from llm.formats.tokenizer_files import read_chat_template
from llm.generation.text import generate
from llm.loaded_model import LoadedModel
from llm.objectives import assistant
from llm.objectives.classifier import Classifier, ClassifierConfig
from llm.tokenizer import END_OF_TEXT, make_encoding, stop_tokens

OURS = [
    {},
    {"n_hidden": 40, "norm_epsilon": 1e-3, "tied": False},
    {"positions": "rotary", "norm": "rms", "mlp": "swiglu", "bias": False, "n_head": 4, "n_kv_head": 2, "tied": False},
    {"positions": "rotary", "norm": "rms", "mlp": "swiglu", "n_kv_head": 1, "rotary_base": 300.0, "n_hidden": 22},
    {"positions": "rotary", "norm": "rms", "mlp": "swiglu", "bias": False, "qk_norm": True, "norm_epsilon": 0.1},
]
SCALING = {
    "factor": 8.0,
    "low_frequency_factor": 1.0,
    "high_frequency_factor": 2.0,
    "original_context_length": 12,
}
OURS += [
    OURS[-1] | {"n_embd": 24, "n_head": 4, "n_kv_head": 2, "rotary_base": 300.0, "tied": False},
    OURS[-1] | {"qk_norm_weight": True, "head_size": 10, "n_kv_head": 1},
    OURS[2] | {"qkv_bias": True},
    OURS[2] | {"rotary_scaling": SCALING, "rotary_base": 10.0},
]


def test_layouts_map_or_fix_every_field_of_the_config():
    free = {"GPT-2": {"n_kv_head", "rotary_base"}, "Qwen3": {"qk_norm_weight"}, "GGUF's qwen3": {"qk_norm_weight"}}
    for layout in (GPT2, LLAMA, QWEN2, QWEN3, GGUF_LLAMA, GGUF_QWEN3):
        fields = free.get(layout.name, set()) | {"dropout"}
        assert layout.keys.keys() | layout.fixed.keys() | fields == GPTConfig.model_fields.keys(), layout.name


@pytest.mark.parametrize("shape", OURS)
@torch.inference_mode()
def test_exported_model_is_the_same_in_transformers_and_comes_back_bit_for_bit(tmp_path, make_gpt, encoding, shape):
    model, folder = make_gpt(**shape), tmp_path / "exported"
    export_huggingface(folder, LoadedModel(model, encoding))
    theirs, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert difference(model(TOKENS), theirs.eval()(TOKENS).logits) <= 1e-4
    theirs.generation_config.eos_token_id = None
    texts = theirs.generate(TOKENS, do_sample=False, max_new_tokens=15, pad_token_id=0)
    assert generate(model, TOKENS.tolist(), max_new_tokens=15) == texts[:, TOKENS.shape[1] :].tolist()
    for text in ("the cat sat on the mat.", "  a bird,\n\n\tsang 12345 'tis ünïcödé 🐈 ", "thethethe hathat"):
        assert tokenizer.encode(text, add_special_tokens=False) == encoding.encode_ordinary(text)
    assert tokenizer.eos_token_id == encoding.eot_token == theirs.config.eos_token_id
    again, encoding_again = load_pretrained(folder)
    assert all(torch.equal(weight, again.state_dict()[name]) for name, weight in model.state_dict().items())
    assert again.config == model.config.model_copy(
        update={"n_kv_head": again.config.n_kv_head, "n_hidden": model.config.hidden_width}
    )
    assert encoding_again.encode_ordinary("the cat") == encoding.encode_ordinary("the cat")


def test_export_refuses_a_shape_that_no_family_has(tmp_path, make_gpt, encoding):
    for shape in ({"bias": False}, {"norm": "rms"}, {"n_kv_head": 1}, {"positions": "rotary"}, {"qk_norm": True}):
        with pytest.raises(ValueError, match=r"is none of GPT-2's .*, Llama's .*, Qwen3's"):
            export_huggingface(tmp_path / "out", LoadedModel(make_gpt(**shape), encoding))
    classifier = Classifier(make_gpt(), ClassifierConfig(labels=("ham", "spam"), max_tokens=8))
    with pytest.raises(ValueError, match="a Classifier has no place in this format"):
        export_huggingface(tmp_path / "out", LoadedModel(classifier, encoding))
    assert not (tmp_path / "out").exists()


BOS = "{{ bos_token }}{% for message in messages %}{{ message.content + eos_token }}{% endfor %}"
TALK = [
    Message("system", "the moon"),
    Message("user", "the cat"),
    Message("assistant", "sat é"),
    Message("user", "on the mat"),
]


@pytest.mark.parametrize("template", [CHATML, TEMPLATE, BOS], ids=["ChatML", "ours", "with a token that begins"])
def test_exported_chat_template_gives_transformers_the_same_prompts(tmp_path, make_gpt, encoding, template):
    ranks, end = encoding._mergeable_ranks, encoding.n_vocab
    special = {END_OF_TEXT: end - 1, "<|im_start|>": end, "<|im_end|>": end + 1}
    chatty = make_encoding(encoding._pat_str, ranks, special)
    gpt = make_gpt(**OURS[2] | {"vocabulary_size": chatty.n_vocab})
    chat = {"template": template, "system": 'the "hat" é 🐈', "text_penalty": 1.1}
    model = assistant.build(gpt, {"chat": chat})
    model.load_state_dict(gpt.state_dict())
    folder = tmp_path / "assistant"
    export_huggingface(folder, LoadedModel(model, chatty), model.chat, max_new_tokens=7)
    theirs = AutoTokenizer.from_pretrained(folder)
    for talk in (TALK, TALK[1:]):  # with a system prompt of its own, and without one
        messages = [message._asdict() for message in talk]
        tokens = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert tokens == prompt_tokens(chatty, model.chat, talk)
        assert tokens == prompt_tokens(chatty, Chat(template=read_chat_template(folder)), talk)
    assert theirs.eos_token_id == end_of_turn(chatty, model.chat)
    generation = GenerationConfig.from_pretrained(folder)
    assert generation.repetition_penalty in (None, 1.0)  # theirs would count the prompt
    assert (generation.do_sample, generation.max_new_tokens) == (False, 7)
    assert set(generation.eos_token_id) == stop_tokens(chatty)  # where generate() stops
    assert len(generation.eos_token_id) == 2


def test_export_without_a_chat_writes_no_template(tmp_path, make_gpt, encoding):
    export_huggingface(tmp_path / "out", LoadedModel(make_gpt(), encoding))
    assert read_chat_template(tmp_path / "out") is None


@torch.inference_mode()
def test_published_model_passes_through_our_folder_and_back_to_transformers(tmp_path, encoding):
    published = tmp_path / "published"
    ours = tmp_path / "ours"
    exported = tmp_path / "exported"
    tokenizer = make_tokenizer("qwen2", complete=True)
    theirs = publish(published, encoding, kind="qwen3", changes={"vocab_size": tokenizer.get_vocab_size() + 5})
    tokenizer.save(str(published / "tokenizer.json"))
    ours.mkdir()
    model, encoding = load_pretrained(published)
    save_model(ours, LoadedModel(model, encoding), objective="language_model")
    export_huggingface(exported, load_model(ours))
    again = AutoModelForCausalLM.from_pretrained(exported).eval()
    assert torch.equal(again(TOKENS).logits, theirs(TOKENS).logits)
    text = "<|im_start|>user\n<tool_call> cafe\u0301 12<|im_end|>"
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert AutoTokenizer.from_pretrained(exported).encode(text, add_special_tokens=False) == ids
