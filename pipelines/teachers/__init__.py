"""Speech synthesizers that read texts aloud for a corpus."""
