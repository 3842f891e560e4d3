"""What the trainers share, and the parts of each."""
