"""`homeostat demo`: the main job on real digits, twice side by side, in about a minute."""

from homeostat.demo.main import main

__all__ = ["main"]
