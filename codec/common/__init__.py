"""What every part shares: whole files, checked JSON, checkpoints on the hub, process means."""
