"""Models on disk: our own folder, published weights and tokenizers in, our weights out."""
