"""What one objective's training is worth to the other."""
