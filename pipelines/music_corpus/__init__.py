"""Scores with captions: how they are composed, arranged, rendered and described."""
