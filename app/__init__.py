"""What a person or a program talks to: the web page, the OpenAI-compatible API and the command line."""
