"""Text to music with a model of our own: a caption in, a piece out; and what it shares with MusicGen."""
