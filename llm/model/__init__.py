"""The decoder-only transformer: embeddings, attention, blocks, and the thin matrices of LoRA."""
