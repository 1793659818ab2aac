import numpy as np
import pytest
import sklearn.metrics
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch.nn import functional as F

from llm.classifier import Classifier, Emails, encode_emails, f1_score, objective, predict, spam_probability
from llm.dataset import Shuffled, pad
from llm.device import Compute

quick = settings(max_examples=25, deadline=None)
texts = st.lists(st.lists(st.integers(0, 250), min_size=1, max_size=32), min_size=1, max_size=7)
CPU = Compute(torch.device("cpu"), torch.float32, "a test")


@pytest.fixture(scope="module")
def model(make_gpt):
    return Classifier(make_gpt(), 32).eval()


@quick
@given(texts, st.integers(1, 4))
def test_padding_and_neighbours_change_nothing(model, emails, batch_size):
    alone = torch.cat([model(torch.tensor([email]), torch.tensor([len(email)])) for email in emails]).detach()
    torch.testing.assert_close(predict(model, emails, batch_size), alone, atol=1e-5, rtol=1e-4)


@quick
@given(texts, st.integers(0, 250))
def test_it_does_not_matter_what_the_padding_is(model, emails, filler):
    tokens, lengths = pad(emails, 0)
    others, _ = pad(emails, filler)
    assert torch.equal(model(tokens, lengths), model(others, lengths))


def test_the_last_real_token_and_the_mean_of_all_decide(model, make_gpt):
    email = [5, 6, 7, 8]
    features = make_gpt().features(torch.tensor([email]))[0]
    decisive = torch.cat([features[3], features.mean(dim=0)])
    (logits, _) = predict(model, [email, [1] * 9])
    assert torch.allclose(logits, model.head(decisive), atol=1e-5)


def test_an_email_is_subject_then_body_cut_before_its_end_token(encoding):
    (whole,) = encode_emails(encoding, ["the cat"], ["sat"], 32)
    assert encoding.decode(whole) == "the cat\n\nsat"
    (cut,) = encode_emails(encoding, ["the cat"], ["sat"], 3)
    assert cut == whole[:3]
    (typed,) = encode_emails(encoding, ["<|endoftext|>"], [""], 32)
    assert encoding.eot_token not in typed


def test_the_probability_of_spam_is_the_softmax_of_its_logit(model, encoding):
    subjects, bodies = ["the cat", "hat", "moon"], ["sat", "the dog ate the hat", ""]
    logits = predict(model, encode_emails(encoding, subjects, bodies, 32))
    expected = 1 / (1 + (logits[:, 0] - logits[:, 1]).exp())
    assert spam_probability(model, encoding, subjects, bodies) == pytest.approx(expected.numpy(), rel=1e-5)


@quick
@given(st.integers(1, 20).flatmap(lambda n: st.tuples(arrays(bool, n), arrays(bool, n))))
def test_f1_is_that_of_scikit_learn(pair):
    assert f1_score(*pair) == pytest.approx(sklearn.metrics.f1_score(*pair, zero_division=0))


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_frozen_layers_stay_and_the_rest_learns(make_gpt, make_config, layers):
    model = Classifier(make_gpt(), 32)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    model.freeze(layers)
    emails = Emails([[1, 2, 3], [4, 5], [6, 7, 8, 9], [10]], torch.tensor([0, 1, 0, 1]))
    goal = objective(model, make_config(), emails, emails, CPU, balanced=False)
    goal.loss(0).backward()
    torch.optim.SGD([weight for weight in model.parameters() if weight.grad is not None], lr=1.0).step()
    moved = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    frozen = tuple(f"gpt.blocks.{layer}." for layer in range(layers)) + (("gpt.embedding.",) if layers else ())
    assert moved == {name for name in before if not name.startswith(frozen)}


def test_an_output_layer_of_its_own_is_not_trained_for_no_text_is_predicted(make_gpt, make_config):
    model = Classifier(make_gpt(tied=False), 32)
    emails = Emails([[1, 2, 3], [4, 5]], torch.tensor([0, 1]))
    objective(model, make_config(batch_size=2), emails, emails, CPU, balanced=False).loss(0).backward()
    idle = {name for name, weight in model.named_parameters() if weight.grad is None}
    assert idle == {name for name, weight in model.named_parameters() if not weight.requires_grad}
    assert idle == {"gpt.output.weight"}


def test_more_frozen_layers_than_blocks_and_more_tokens_than_the_context_are_refused(make_gpt):
    with pytest.raises(ValueError, match="frozen_layers 3 is more than the model's 2 blocks"):
        Classifier(make_gpt(), 32).freeze(3)
    with pytest.raises(ValueError, match="max_tokens 33 is more than the model's context of 32"):
        Classifier(make_gpt(), 33)


@pytest.mark.parametrize("balanced", [True, False])
def test_the_loss_by_hand_with_and_without_class_weights(model, make_config, balanced):
    emails = Emails([[1, 2, 3], [4, 5], [6, 7, 8, 9], [10]], torch.tensor([0, 0, 0, 1]))
    config = make_config(batch_size=3)
    goal = objective(model, config, emails, emails, CPU, balanced=balanced)
    for index in range(3):
        rows = Shuffled(4, 3, config.seed, np.array([3, 2, 4, 1]))[index]
        logits = torch.cat(
            [model(torch.tensor([emails.tokens[row]]), torch.tensor([len(emails.tokens[row])])) for row in rows]
        )
        losses = F.cross_entropy(logits, emails.labels[rows], reduction="none")
        weights = torch.tensor([4 / 6, 4 / 2])[emails.labels[rows]] if balanced else torch.ones(3)
        assert goal.loss(index).item() == pytest.approx(((losses * weights).sum() / weights.sum()).item(), rel=1e-4)


def test_a_look_at_validation_says_its_loss_and_f1(model, make_config):
    emails = Emails([[1, 2, 3], [4, 5], [6, 7, 8, 9], [10]], torch.tensor([0, 1, 1, 1]))
    found = objective(model, make_config(), emails, emails, CPU, balanced=True).evaluate()
    logits = predict(model, emails.tokens)
    assert found["validation_loss"] == pytest.approx(F.cross_entropy(logits, emails.labels).item())
    guess = np.argmax(logits.numpy(), axis=1)
    assert found["validation_f1"] == pytest.approx(sklearn.metrics.f1_score(emails.labels.numpy(), guess))
