"""Tasks to learn from, made of the packs in data/instructions: what they ask, say and know is data, how is here."""
