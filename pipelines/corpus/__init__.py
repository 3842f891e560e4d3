"""Corpora: reading, writing and tokenizing them."""
