"""The interfaces for people and programs: the web page and the OpenAI-compatible API."""
