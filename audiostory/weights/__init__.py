"""Checkpoints on disk: `ours` reads and writes our own folders, strictly."""
