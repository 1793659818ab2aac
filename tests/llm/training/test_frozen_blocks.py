import torch

from llm.training.frozen_blocks import split_blocks


def test_lower_and_upper_blocks_are_the_whole_model_to_the_bit(make_gpt):
    gpt = make_gpt(n_layer=3, positions="learned")
    tokens = torch.tensor([[1, 2, 3], [4, 5, 6]])
    lower, upper = split_blocks(gpt, 2)
    assert (lower.config.n_layer, upper.config.n_layer) == (2, 1)
    assert torch.equal(upper.hidden_states(lower.hidden_states(tokens)), gpt.hidden_states(tokens))
    assert upper.blocks[0] is gpt.blocks[2]
