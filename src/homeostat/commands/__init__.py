"""The commands of the command line, one file per subject. torch is imported only when a command needs it."""
