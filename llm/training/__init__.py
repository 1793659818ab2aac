"""How a model learns: loss, optimisers, the loop and its checkpoints."""
