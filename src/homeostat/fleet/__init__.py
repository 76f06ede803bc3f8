"""Several seeds of one network trained at once. Empty in this release."""
