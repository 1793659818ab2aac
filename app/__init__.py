"""The interfaces for people and programs: the web page, the OpenAI-compatible API and the command line."""
