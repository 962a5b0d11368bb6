"""Which documents of a corpus to train on: pure functions on arrays of losses, embeddings and texts."""
