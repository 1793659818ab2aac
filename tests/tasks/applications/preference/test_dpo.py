import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from llm.config import LoRAConfig
from llm.dataset import BatchSampler
from llm.device import Compute
from llm.model.lora import add_lora
from llm.objectives.assistant import Example
from llm.training.checkpoint import Checkpoints
from llm.training.loop import train
from tasks.applications.preference import train as preference
from tasks.applications.preference.train import Pair, dpo_loss, log_probabilities, margins, objective, preference_loss

CPU = Compute(torch.device("cpu"), torch.float32, "a test")
tokens = st.lists(st.integers(0, 250), min_size=1, max_size=8)


def pair(prompt: list[int], chosen: list[int], rejected: list[int]) -> Pair:
    def example(response: list[int]) -> Example:
        return Example(prompt + response, [False] * len(prompt) + [True] * len(response))

    return Pair(example(chosen), example(rejected))


PAIRS = [pair([1, 2, 3], [4, 5], [6]), pair([7], [8], [9, 10, 11]), pair([12, 13], [14, 15], [14, 16])]


def alone(gpt, example: Example) -> torch.Tensor:
    """The summed log-probability of what one row's assistant says."""
    row, learned = torch.tensor(example.tokens), torch.tensor(example.learned)
    probabilities = gpt(row[None, :-1])[0].log_softmax(dim=-1)
    return probabilities.gather(1, row[1:, None])[learned[1:]].sum()


@settings(max_examples=20)
@given(st.lists(st.builds(pair, tokens, tokens, tokens), min_size=1, max_size=4), st.integers(1, 9))
def test_answers_side_by_side_have_the_log_probability_and_the_gradient_of_each_alone(make_gpt, pairs, rows):
    ours, theirs = make_gpt(), make_gpt()
    before, preference.ROWS = preference.ROWS, rows  # several pieces of a few tokens
    try:
        found = log_probabilities(ours, pairs, CPU)
        expected = torch.stack([torch.stack([alone(theirs, each) for each in both]) for both in pairs])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        weights = torch.arange(1.0, 2 * len(pairs) + 1).view(-1, 2)
        (found * weights).sum().backward(), (expected * weights).sum().backward()
    finally:
        preference.ROWS = before
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        largest = max(other.grad.abs().max().item(), 1e-3)
        torch.testing.assert_close(mine.grad, other.grad, atol=1e-4 * largest, rtol=1e-3)


def test_logits_exist_for_a_piece_of_the_tokens_at_a_time(make_gpt, monkeypatch):
    gpt, sizes, plain = make_gpt(), [], F.linear

    def watched(x, weight, bias=None):
        if weight is gpt.output_weight:
            sizes.append(len(x))
        return plain(x, weight, bias)

    monkeypatch.setattr(preference, "ROWS", 4)
    monkeypatch.setattr(F, "linear", watched)
    log_probabilities(gpt, PAIRS, CPU).sum().backward()
    assert sizes == [4, 4, 3, 3, 4, 4]  # 11 tokens are said; the backward pass makes their logits again


def test_the_loss_by_hand():
    found = dpo_loss(torch.tensor([-1.0, 2.0]), torch.tensor([-1.0, -3.0]), beta=0.5)
    assert found.tolist() == pytest.approx([math.log(2), math.log(1 + math.exp(-2.5))])


def test_the_loss_of_a_batch_by_hand_with_and_without_the_chosen_answers_own(make_gpt):
    gpt, reference_B = make_gpt(), torch.tensor([0.5, -2.0, 1.0])
    said = [[alone(gpt, each).item() for each in both] for both in PAIRS]
    dpo = sum(
        math.log(1 + math.exp(-0.3 * (chosen - rejected - reference)))
        for (chosen, rejected), reference in zip(said, reference_B.tolist(), strict=True)
    )
    own = sum(-chosen / tokens for (chosen, _), tokens in zip(said, (2, 1, 2), strict=True))
    assert preference_loss(gpt, PAIRS, reference_B, 0.3, 0.0, CPU).item() == pytest.approx(dpo, rel=1e-4)
    assert preference_loss(gpt, PAIRS, reference_B, 0.3, 0.2, CPU).item() == pytest.approx(dpo + 0.2 * own, rel=1e-4)


def test_one_step_down_the_gradient_makes_the_chosen_answer_likelier_beside_the_rejected_one(make_gpt):
    gpt = make_gpt()
    before = margins(gpt, PAIRS, 2, CPU)
    preference_loss(gpt, PAIRS, before, 0.1, 0.0, CPU).backward()
    with torch.no_grad():
        for weight in gpt.parameters():
            weight -= 1e-3 * weight.grad
    assert (margins(gpt, PAIRS, 2, CPU) > before).all()


def test_a_margin_is_the_same_whatever_it_is_computed_with_and_keeps_no_graph(make_gpt):
    gpt = make_gpt()
    together, each = margins(gpt, PAIRS, 3, CPU), margins(gpt, PAIRS, 1, CPU)
    torch.testing.assert_close(together, each, rtol=1e-5, atol=1e-5)
    assert not together.requires_grad


@pytest.fixture
def tuning(make_gpt, make_config):
    """A model with LoRA and what it is to learn, at the same place each time."""

    def make(exam=lambda: {"validation_exact_match": 0.5}, **values):
        gpt = make_gpt()
        torch.manual_seed(1)
        add_lora(gpt, LoRAConfig(rank=2, alpha=4))
        config = make_config(batch_size=2, **values)
        return gpt, config, objective(gpt, config, PAIRS, PAIRS, CPU, beta=0.5, nll=0.0, exam=exam)

    return make


def test_training_prefers_the_chosen_answers_and_starts_from_even_odds(tuning):
    right = iter(range(9))
    gpt, config, goal = tuning(lambda: {"validation_exact_match": next(right) / 9}, steps=20, evaluate_every=20)
    before = margins(gpt, PAIRS, 3, CPU)
    history = train(gpt, config, goal)
    first, last = history[0], history[-1]
    assert first["validation_loss"] == pytest.approx(math.log(2), rel=1e-4)
    assert first["validation_margin"] == pytest.approx(0, abs=1e-4)
    after = margins(gpt, PAIRS, 3, CPU)
    assert last["validation_margin"] == pytest.approx((after - before).mean().item(), rel=1e-4)
    assert last["validation_margin"] > 0.5
    assert last["validation_preferred"] == 1
    assert last["validation_loss"] < math.log(2)


def test_the_base_stays_where_no_later_weights_answer_better(tuning):
    gpt, config, goal = tuning(steps=4)
    before = margins(gpt, PAIRS, 3, CPU)
    train(gpt, config, goal)
    assert torch.equal(margins(gpt, PAIRS, 3, CPU), before)


def test_the_loss_of_a_batch_is_the_mean_over_its_pairs(make_gpt, make_config):
    gpt, config = make_gpt(), make_config(batch_size=2)
    reference_B, order = margins(gpt, PAIRS, 3, CPU), BatchSampler(3, 2, config.seed)
    goal = objective(gpt, config, PAIRS, PAIRS, CPU, beta=0.5, nll=0.3, exam=dict)
    for index in range(3):
        rows = order[index]
        total = preference_loss(gpt, [PAIRS[row] for row in rows], reference_B[rows], 0.5, 0.3, CPU)
        assert goal.loss(gpt, index).item() == pytest.approx(total.item() / 2, rel=1e-5)


def test_training_that_was_stopped_goes_on_to_the_same_weights(tuning, tmp_path):
    def exam_of(right: list[float]):
        return lambda: {"validation_exact_match": right.pop(0)}

    through, config, goal = tuning(exam_of([0.1, 0.2, 0.3, 0.4]))
    train(through, config, goal)
    stopped, config, goal = tuning(exam_of([0.1, 0.2]))
    asked = iter([False, False, False, True])
    with pytest.raises(InterruptedError):
        train(stopped, config, goal, checkpoints=Checkpoints(tmp_path), stop=lambda: next(asked))
    resumed, config, goal = tuning(exam_of([0.3, 0.4]))  # its reference is the base again
    train(resumed, config, goal, checkpoints=Checkpoints(tmp_path))
    for name, weight in through.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name
