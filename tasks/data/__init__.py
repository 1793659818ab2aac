"""What datasets share: sources, text files, mail as text, splits, quality, published models."""
