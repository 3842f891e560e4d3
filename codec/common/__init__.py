"""What every room shares: whole files, checked JSON, checkpoints on the hub, seeds, process helpers."""
