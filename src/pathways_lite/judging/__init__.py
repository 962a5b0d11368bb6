"""Statistics of repeated samples: coverage, votes, best of k, weak verifiers; verdicts of sample files and their page."""
