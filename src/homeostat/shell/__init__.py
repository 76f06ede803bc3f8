"""The only impure room: attach and watch, hooks, the unit graph, surgery, the command line's runner."""
