"""MusicGen's network, its generation and its checkpoints."""
