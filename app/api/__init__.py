"""The HTTP API: OpenAI's paths under /v1, /classify, and the server that has them."""
