"""The language model from scratch: tokenizer, transformer, training, generation, and what is learned with them."""
