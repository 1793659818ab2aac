import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.generate import generate, generate_text, sample
from llm.pretrain import continuations

quick = settings(max_examples=25, deadline=None)
prompts_of_any_length = st.lists(st.lists(st.integers(0, 250), min_size=1, max_size=20), min_size=1, max_size=4)
ANY = {"temperature": 1.0, "top_k": None, "top_p": None}


def one_by_one(gpt, prompt: list[int], count: int, stop: int | None = None) -> list[int]:
    """Greedy, with no cache and no batch."""
    tokens = list(prompt)
    for _ in range(count):
        token = int(gpt(torch.tensor([tokens]))[0, -1].argmax())
        if token == stop:
            break
        tokens.append(token)
    return tokens[len(prompt) :]


@quick
@given(prompts_of_any_length, st.integers(1, 12), st.integers(0, 3))
def test_a_batch_with_a_cache_gives_what_each_prompt_gives_alone_without(make_gpt, prompts, count, seed):
    gpt = make_gpt(seed)
    expected = [one_by_one(gpt, prompt, count) for prompt in prompts]
    assert generate(gpt, prompts, max_new_tokens=count) == expected
    stop = expected[0][-1]
    assert generate(gpt, prompts, max_new_tokens=count, stop=stop) == [
        one_by_one(gpt, prompt, count, stop) for prompt in prompts
    ]


@quick
@given(st.permutations([[3], [9, 8, 7, 6, 5, 4], [1, 2, 3], [200] * 20]))
def test_the_order_of_the_prompts_changes_no_answer(make_gpt, prompts):
    gpt = make_gpt()
    answers = dict(zip(map(tuple, prompts), generate(gpt, prompts, max_new_tokens=8), strict=True))
    assert answers == {tuple(prompt): one_by_one(gpt, prompt, 8) for prompt in prompts}


def test_a_text_may_fill_the_context_to_its_last_token(make_gpt):
    assert len(generate(make_gpt(), [[1] * 20], max_new_tokens=12)[0]) == 12


@pytest.mark.parametrize(
    ("prompts", "options", "reason"),
    [
        ([], {}, "the prompt is empty"),
        ([[1], []], {}, "the prompt is empty"),
        ([[1, 9999]], {}, "token 9999 is not one of the model's"),
        ([[-1]], {}, "token -1 is not one of the model's"),
        ([[1], [1] * 30], {}, "30 prompt tokens and 4 new ones do not fit the context of 32"),
        ([[1]], {"max_new_tokens": 0}, "max_new_tokens 0"),
        ([[1]], {"temperature": -0.1}, r"temperature -0\.1"),
        ([[1]], {"temperature": float("nan")}, "temperature nan"),
        ([[1]], {"top_k": 0}, "top_k 0"),
        ([[1]], {"top_p": 0.0}, r"top_p 0\.0 is not above 0 and at most 1"),
        ([[1]], {"top_p": 1.5}, r"top_p 1\.5"),
    ],
)
def test_what_makes_no_sense_is_refused_and_named(make_gpt, prompts, options, reason):
    with pytest.raises(ValueError, match=reason):
        generate(make_gpt(), prompts, **({"max_new_tokens": 4} | options))


def draw(logits: torch.Tensor, count: int = 20_000, **options: float | None) -> torch.Tensor:
    """The share of each token among many draws."""
    generator = torch.Generator().manual_seed(0)
    tokens = sample(logits.expand(count, -1), **(ANY | options), generator=generator)
    return tokens.bincount(minlength=len(logits)) / count


LOGITS = torch.tensor([0.1, 0.4, 0.05, 0.25, 0.2]).log()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_many_draws_come_close_to_the_softmax(temperature):
    expected = (LOGITS / temperature).softmax(dim=0)
    assert (draw(LOGITS, temperature=temperature) - expected).abs().max() < 0.01


@pytest.mark.parametrize(
    ("options", "stay"),
    [
        ({"top_k": 1}, [1]),
        ({"top_k": 3}, [1, 3, 4]),
        ({"top_k": 99}, [0, 1, 2, 3, 4]),
        ({"top_p": 0.01}, [1]),
        ({"top_p": 0.6}, [1, 3]),  # 0.4 alone is too little
        ({"top_p": 0.84}, [1, 3, 4]),
        ({"top_p": 1.0}, [0, 1, 2, 3, 4]),
        ({"top_k": 3, "top_p": 0.9}, [1, 3, 4]),
        ({"top_k": 2, "top_p": 0.7}, [1, 3]),  # of the two, 0.4 is 0.615
        ({"top_k": 2, "top_p": 0.6}, [1]),
    ],
)
def test_top_k_and_top_p_choose_who_may_be_drawn(options, stay):
    expected = torch.zeros(5)
    expected[stay] = LOGITS.exp()[stay] / LOGITS.exp()[stay].sum()
    shares = draw(LOGITS, **options)
    assert shares.nonzero().flatten().tolist() == stay
    assert (shares - expected).abs().max() < 0.015


def test_temperature_0_takes_the_likeliest_and_a_small_one_nearly_always():
    logits = torch.randn(50, 30, generator=torch.Generator().manual_seed(1))
    assert torch.equal(sample(logits, **(ANY | {"temperature": 0.0}), generator=None), logits.argmax(dim=-1))
    assert torch.equal(sample(logits, **(ANY | {"temperature": 1e-4}), generator=None), logits.argmax(dim=-1))


def test_a_seed_repeats_and_another_differs(make_gpt, encoding):
    gpt = make_gpt()
    one, two, three = (
        generate_text(gpt, encoding, "the cat", max_new_tokens=20, temperature=1.5, seed=seed) for seed in (1, 1, 2)
    )
    assert one == two != three


def test_generating_leaves_the_global_randomness_alone(make_gpt):
    gpt = make_gpt()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    generate(gpt, [[1, 2]], max_new_tokens=5, temperature=1.0, seed=3)
    assert torch.equal(torch.rand(1), expected)


def test_samples_end_where_the_context_does(make_gpt, encoding):
    (text,) = continuations(make_gpt(), encoding, ("the cat",), tokens=999, seed=1)
    assert text.startswith("the cat")
