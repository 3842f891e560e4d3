"""Speech synthesizers that read texts aloud for a corpus: one file each, listed in `registry`."""
