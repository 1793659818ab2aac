"""A guard of the assistant: which requests it should answer, decline, or meet with help."""
