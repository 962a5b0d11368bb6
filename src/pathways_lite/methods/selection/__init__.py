"""Selection of a corpus's documents: pure functions of losses, embeddings and texts."""
