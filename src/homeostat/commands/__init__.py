"""The commands of the command line, one file per subject. Nothing here imports torch before a command needs it."""
