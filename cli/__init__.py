"""The one command line, `threestage`: stages, reviews, the registry, your data, a conversation, and the server."""
