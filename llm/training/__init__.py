"""How a model learns: loss, optimisers, the loop, its checkpoints, and several workers as one."""
