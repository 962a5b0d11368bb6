"""Cross-entropy and log Z from hidden states and the output embedding, without the logits of all tokens at once."""

from pathways_kernels.cross_entropy.api import cross_entropy

__all__ = ["cross_entropy"]
