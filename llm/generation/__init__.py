"""How a model writes: which token comes next, many texts at once, as text, and fast."""
