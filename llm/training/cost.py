"""What a training costs: FLOPs a token."""

from llm.model.gpt import GPT


def training_flops(model: GPT) -> int:
    """FLOPs that training spends on a token of a full context: six a weight that multiplies, and the attention.

    Chowdhery et al. 2022, appendix B; a causal token sees half of the context.
    """
    config = model.config
    blocks = sum(weight.numel() for weight in model.blocks.parameters() if weight.ndim == 2)
    attention = config.n_layer * config.n_head * config.head_width * config.context_length
    return 6 * (blocks + model.output_weight.numel() + attention)
