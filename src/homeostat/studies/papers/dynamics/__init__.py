"""Studies of training dynamics."""
