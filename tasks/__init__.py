"""Everything around the model, by what it is about."""
