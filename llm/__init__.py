"""The language model from scratch: tokenizer, data, attention, GPT, training, generation."""
