"""Studies of continual learning."""
