"""Make instruction rows from the packs in data/instructions: the packs hold the content, this package the engine."""
