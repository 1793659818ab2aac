"""What datasets share: sources, text files, mail as text, cleaning, splits, quality, published models."""
