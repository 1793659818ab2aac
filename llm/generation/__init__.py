"""Text from a model: the plain loop (greedy.py), which token comes next, many texts at once, as text, and fast."""
