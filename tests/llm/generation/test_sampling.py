import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import RepetitionPenaltyLogitsProcessor

from llm.generation.sampling import GREEDY, LIVELY, Sampler, Sampling, candidates, choose, penalise

LOGITS = torch.tensor([0.1, 0.4, 0.05, 0.25, 0.2]).log()


def draw(logits: torch.Tensor, count: int = 5000, **options: float) -> torch.Tensor:
    """The share of each token among many draws."""
    sampler = Sampler(Sampling(**({"temperature": 1.0, "seed": 0} | options)))
    tokens = torch.tensor([sampler.choose(logits) for _ in range(count)])
    return tokens.bincount(minlength=len(logits)) / count


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_come_close_to_the_softmax(temperature):
    expected = (LOGITS / temperature).softmax(dim=0)
    assert (draw(LOGITS, temperature=temperature) - expected).abs().max() < 0.02


@pytest.mark.parametrize(
    ("options", "stay"),
    [
        ({"top_k": 1}, [1]),
        ({"top_k": 3}, [1, 3, 4]),
        ({"top_p": 0.01}, [1]),
        ({"top_p": 0.6}, [1, 3]),  # 0.4 alone is too little
        ({"top_p": 1.0}, [0, 1, 2, 3, 4]),
        ({"top_k": 3, "top_p": 0.9}, [1, 3, 4]),
        ({"top_k": 2, "top_p": 0.7}, [1, 3]),  # of the two, 0.4 is 0.615
    ],
)
def test_top_k_and_top_p_bound_the_tokens_that_may_be_drawn(options, stay):
    expected = torch.zeros(5)
    expected[stay] = LOGITS.exp()[stay] / LOGITS.exp()[stay].sum()
    weights, tokens = candidates(LOGITS, Sampling(temperature=1.0, **options))
    torch.testing.assert_close(torch.zeros(5).index_add(0, tokens, weights / weights.sum()), expected)
    shares = draw(LOGITS, 1000, **options)
    assert shares.nonzero().flatten().tolist() == stay
    assert (shares - expected).abs().max() < 0.04


@settings(max_examples=60)
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
    if top_p is not None:
        probabilities_V[probabilities_V.cumsum(dim=-1) - probabilities_V >= top_p] = 0.0
    generator = torch.Generator().manual_seed(seed)
    expected = [int(tokens_V[torch.multinomial(probabilities_V, 1, generator=generator)]) for _ in range(4)]
    sampler = Sampler(Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed))
    assert [sampler.choose(logits) for _ in range(4)] == expected


def test_temperature_0_takes_the_likeliest_and_a_small_one_nearly_always():
    logits = torch.randn(50, 30, generator=torch.Generator().manual_seed(1))
    for sampling in (GREEDY, Sampling(temperature=1e-4)):
        assert choose(logits, [Sampler(sampling)] * 50) == logits.argmax(dim=-1).tolist()


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


@pytest.mark.parametrize("temperature", [1e-30, 1e-39, 1e-50, 5e-324])
def test_tiny_temperature_draws_the_likeliest(temperature):
    logits = torch.randn(50, 30, generator=torch.Generator().manual_seed(1))
    samplers = [Sampler(Sampling(temperature=temperature, top_p=0.95))] * 50
    assert choose(logits, samplers) == logits.argmax(dim=-1).tolist()


def test_penalty_divides_positive_logits_and_multiplies_negative_ones():
    logits = torch.tensor([3.0, -2.0, 1.5, 0.0])
    assert penalise(logits, {0, 1, 3}, 2.0).tolist() == [1.5, -4.0, 1.5, 0.0]
    assert logits.tolist() == [3.0, -2.0, 1.5, 0.0]


@settings(max_examples=60)
@given(st.integers(0, 2**16), st.floats(0.5, 2.0))
def test_text_penalty_chooses_as_transformers_processor_does(seed, penalty):
    sampler = Sampler(Sampling(text_penalty=penalty))
    prompt = [0, 5, 7]
    penalise_text = RepetitionPenaltyLogitsProcessor(penalty, prompt_ignore_length=len(prompt))
    generator = torch.Generator().manual_seed(seed)
    text: list[int] = []
    for _ in range(30):
        logits_V = torch.randn(40, generator=generator)
        logits_V[:4] += 3  # so that repeated tokens are likely
        tokens_1T = torch.tensor([[*prompt, *text]], dtype=torch.long)
        scores_1V = penalise_text(tokens_1T, logits_V[None])
        text.append(int(scores_1V.argmax()))
        assert sampler.choose(logits_V) == text[-1]


@settings(max_examples=40)
@given(st.integers(0, 2**16), st.lists(st.floats(0.5, 2.0) | st.just(1.0), min_size=1, max_size=5))
def test_text_penalty_gives_a_row_in_a_batch_what_it_gives_alone_and_leaves_logits_as_they_are(seed, penalties):
    generator = torch.Generator().manual_seed(seed)
    samplings = [Sampling(text_penalty=penalty) for penalty in penalties]
    together = [Sampler(sampling, exempt={3}) for sampling in samplings]
    alone = [Sampler(sampling, exempt={3}) for sampling in samplings]
    for _ in range(12):
        logits_BV = torch.randn(len(penalties), 9, generator=generator)
        before_BV = logits_BV.clone()
        tokens = choose(logits_BV, together)
        assert torch.equal(logits_BV, before_BV)
        assert tokens == [sampler.choose(row_V) for sampler, row_V in zip(alone, before_BV, strict=True)]


def test_text_penalty_counts_no_exempt_tokens():
    sampler = Sampler(Sampling(text_penalty=4.0), exempt={1})
    assert [sampler.choose(torch.tensor([3.0, 2.0, 1.0])) for _ in range(4)] == [0, 1, 1, 1]


def test_rows_of_one_batch_follow_their_own_rules():
    logits = torch.randn(1, 40, generator=torch.Generator().manual_seed(1)).repeat(4, 1)
    likeliest = int(logits[0].argmax())
    lively = Sampling(temperature=5.0, seed=3)
    samplers = [Sampler(sampling) for sampling in (GREEDY, lively, Sampling(text_penalty=100.0), lively)]
    samplers[2].accept(likeliest)
    first, *others = choose(logits, samplers)
    assert first == likeliest
    assert others[1] == int(logits[0].topk(2).indices[1])
    assert others[0] == others[2] == Sampler(lively).choose(logits[0])


def test_draws_without_a_seed_follow_the_global_generator_and_with_one_leave_it_alone():
    def three() -> list[int]:
        torch.manual_seed(5)
        sampler = Sampler(LIVELY)
        return [sampler.choose(torch.zeros(999)) for _ in range(3)]

    assert three() == three()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    Sampler(Sampling(temperature=1.0, seed=3)).choose(LOGITS)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_k", 0),
        ("top_p", 0.0),
        ("text_penalty", 1e-39),
        ("text_penalty", float("nan")),
        ("seed", -1),
        ("top_q", 1),
    ],
)
def test_invalid_option_is_refused_with_its_name(name, value):
    with pytest.raises(ValueError, match=name):
        Sampling(**{name: value})
