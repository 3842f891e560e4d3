"""The speech server: one running batch, and the protocols that lead to it."""
