"""Make checkpoints from checkpoints, file by file and without training: grown, merged, sparse."""
