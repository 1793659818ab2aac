import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import RepetitionPenaltyLogitsProcessor

from llm.generation.sampling import GREEDY, LIVELY, Sampler, Sampling, choose


@settings(max_examples=100)
@given(
    seed=st.integers(0, 2**16),
    size=st.sampled_from([5, 300, 9000]),
    temperature=st.floats(0.1, 3.0),
    top_k=st.none() | st.integers(1, 400),
    top_p=st.none() | st.floats(0.01, 1.0),
)
def test_seed_draws_the_same_as_with_a_sorted_vocabulary(seed, size, temperature, top_k, top_p):
    logits = 4 * torch.randn(size, generator=torch.Generator().manual_seed(seed))
    sorted_V, tokens_V = (logits / temperature).sort(descending=True)
    if top_k is not None:
        sorted_V[top_k:] = -torch.inf
    probabilities_V = sorted_V.softmax(dim=-1)
    weights_V = probabilities_V.clone()
    if top_p is not None:
        weights_V[probabilities_V.cumsum(dim=-1) - probabilities_V >= top_p] = 0.0
    generator = torch.Generator().manual_seed(seed)
    expected = [int(tokens_V[torch.multinomial(weights_V, 1, generator=generator)]) for _ in range(4)]
    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    sampler = Sampler(Sampling(**options, seed=seed))
    assert [sampler.choose(logits) for _ in range(4)] == expected


@settings(max_examples=100)
@given(
    logits=st.lists(st.floats(-1e4, 1e4, width=32), min_size=2, max_size=9, unique=True),
    temperature=st.floats(0, 1e308, exclude_min=True),
    penalty=st.sampled_from([0.01, 1.0, 100.0]),
    top_p=st.none() | st.floats(0.01, 1.0),
)
def test_valid_temperature_and_penalty_can_always_be_drawn_with(logits, temperature, penalty, top_p):
    sampling = Sampling(temperature=temperature, text_penalty=penalty, top_p=top_p, seed=0)
    assert Sampler(sampling).choose(torch.tensor(logits)) in range(len(logits))


@pytest.mark.parametrize("temperature", [0, 1e-4, 1e-30, 1e-39, 5e-324])
def test_tiny_temperature_draws_the_likeliest(temperature):
    logits = torch.randn(50, 30, generator=torch.Generator().manual_seed(1))
    samplers = [Sampler(Sampling(temperature=temperature, top_p=0.95))] * 50
    assert choose(logits, samplers) == logits.argmax(dim=-1).tolist()


@settings(max_examples=60)
@given(st.integers(0, 2**16), st.floats(0.5, 2.0))
def test_text_penalty_chooses_as_transformers_processor_does_alone_and_in_a_batch(seed, penalty):
    alone, *batch = [Sampler(sampling) for sampling in (*[Sampling(text_penalty=penalty)] * 2, GREEDY)]
    prompt = [0, 5, 7]
    penalise_text = RepetitionPenaltyLogitsProcessor(penalty, prompt_ignore_length=len(prompt))
    generator = torch.Generator().manual_seed(seed)
    text: list[int] = []
    for _ in range(30):
        logits_V = torch.randn(40, generator=generator)
        logits_V[:4] += 3  # so that repeated tokens are likely
        scores_1V = penalise_text(torch.tensor([[*prompt, *text]]), logits_V[None])
        expected = [int(scores_1V.argmax()), int(logits_V.argmax())]
        logits_BV = logits_V.repeat(2, 1)
        assert choose(logits_BV, batch) == expected
        assert torch.equal(logits_BV, logits_V.repeat(2, 1))
        assert alone.choose(logits_V) == expected[0]
        text.append(expected[0])


def test_text_penalty_counts_no_exempt_tokens():
    sampler = Sampler(Sampling(text_penalty=4.0), exempt={1})
    assert [sampler.choose(torch.tensor([2.5, 3.0, 1.0])) for _ in range(3)] == [1, 1, 1]


def test_draws_of_one_batch_follow_their_own_rules_and_seeds_and_leave_the_global_generator_alone():
    logits = torch.randn(1, 40, generator=torch.Generator().manual_seed(1)).expand(3, -1)
    lively = Sampling(temperature=5.0, seed=3)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    tokens = choose(logits, [Sampler(sampling) for sampling in (lively, GREEDY, lively)])
    assert torch.equal(torch.rand(1), expected)
    assert tokens[0] == tokens[2] == Sampler(lively).choose(logits[0])
    assert tokens[1] == int(logits[0].argmax())


def test_draws_without_a_seed_follow_the_global_generator():
    def three() -> list[int]:
        torch.manual_seed(5)
        sampler = Sampler(LIVELY)
        return [sampler.choose(torch.zeros(999)) for _ in range(3)]

    assert three() == three()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("top_k", 0),
        ("top_p", 0.0),
        ("text_penalty", 1e-39),
        ("text_penalty", float("nan")),
        ("text_penalty", 0.0),
        ("seed", -1),
    ],
)
def test_invalid_option_is_refused_with_its_name(name, value):
    with pytest.raises(ValueError, match=name):
        Sampling(**{name: value})
