"""The GPT that is trained from scratch and that fine-tunes can start from."""
