"""What the programs share: how they start and fail, settings, options, progress."""
