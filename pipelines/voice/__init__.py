"""A voice: text in, speech out."""
