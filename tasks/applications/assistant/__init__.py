"""An assistant that follows instructions, fine-tuned on rows of instruction, input and answer."""
