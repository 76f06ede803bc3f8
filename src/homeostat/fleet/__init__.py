"""Training several seeds of one network at once. Empty in this release."""
