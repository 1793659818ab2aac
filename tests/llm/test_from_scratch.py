"""The model in one file is that of llm/model, and learns."""

import math
from collections import Counter
from pydoc_data.topics import topics

import pytest
import torch

from llm import from_scratch
from llm.config import GPTConfig
from llm.model.gpt import GPT
from llm.tokenizer import train_bpe

TEXT = "\n".join(topics.values()) + "ünïcödé 🐈 it's 1984\n"


@pytest.fixture(scope="module")
def tokenizer() -> from_scratch.Tokenizer:
    return from_scratch.Tokenizer(from_scratch.train_bpe(TEXT, 600))


def test_merges_are_those_of_train_bpe_but_for_ties_and_tokens_give_the_text_back(tokenizer):
    ours = {*tokenizer.bytes_of}
    assert len(ours) == 600
    assert len(ours & train_bpe([TEXT], 601)._mergeable_ranks.keys()) >= 597  # ties come in another order
    text = TEXT[:2000] + "  ünïcödé 🐈\n\n\ttabs  "
    tokens = tokenizer.encode(text)
    assert tokenizer.decode(tokens) == text
    assert len(tokens) < 0.6 * len(text.encode())


def test_merges_end_where_every_word_is_one_token():
    tokenizer = from_scratch.Tokenizer(from_scratch.train_bpe("abc abd abc", 300))
    assert tokenizer.bytes_of[256:] == [b"ab", b"abc", b" ab", b" abc", b" abd"]


def test_weights_give_the_production_model_the_same_logits():
    torch.manual_seed(1)
    config = from_scratch.Config(vocabulary_size=300, context_length=16, n_layer=2, n_head=4, n_embd=32)
    ours = from_scratch.GPT(config)
    theirs = GPT(GPTConfig(**vars(config), tied=False)).eval()
    theirs.load_state_dict(ours.state_dict())
    tokens_BT = torch.randint(300, (3, 16))
    assert (ours(tokens_BT) - theirs(tokens_BT)).abs().max() < 1e-5


def test_loss_is_that_of_torch_and_falls_below_what_counting_tokens_reaches(tokenizer, capsys):
    torch.manual_seed(0)
    logits_BTV, targets_BT = torch.randn(2, 3, 9), torch.randint(9, (2, 3))
    expected = torch.nn.functional.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten())
    assert from_scratch.cross_entropy(logits_BTV, targets_BT).item() == pytest.approx(expected.item(), abs=1e-6)
    tokens = tokenizer.encode(TEXT[:200_000])
    model = from_scratch.GPT(from_scratch.Config(600, context_length=32, n_layer=2, n_head=2, n_embd=48))
    train_N, held_out_N = torch.tensor(tokens[:-5000]), torch.tensor(tokens[-5000:])
    curve = from_scratch.train(model, train_N, held_out_N, steps=100)
    assert curve[0][1] == pytest.approx(math.log(600), abs=0.3), "at first every token is as likely"
    shares = Counter(tokens)
    entropy = -sum(count / len(tokens) * math.log(count / len(tokens)) for count in shares.values())
    assert curve[-1][1] < entropy - 0.5
    assert capsys.readouterr().out.count("held out") == len(curve) == 11
    assert len(from_scratch.generate(model, tokens[:3], 20)) == 23
    likeliest = [int(model(torch.tensor([tokens[:3]]))[0, -1].argmax())]
    assert from_scratch.generate(model, tokens[:3], 1, temperature=5.0, top_k=1) == tokens[:3] + likeliest


def test_every_update_moves_the_weights():
    rates = [from_scratch.rate_at(step, 100) for step in range(1, 101)]
    assert max(rates) == 1
    assert min(rates) == rates[-1] > 0
