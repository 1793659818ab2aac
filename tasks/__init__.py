"""Everything outside the model: sources, tables, quality, tracking, registry, stages."""
