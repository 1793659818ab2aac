"""Code that datasets share: sources, file formats, cleaning, splits, quality checks, published models."""
