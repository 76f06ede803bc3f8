"""Studies of post-training."""
