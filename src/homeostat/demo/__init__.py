"""`homeostat demo`: trains on digits whose labels keep changing, untreated and under the closed loop."""

from homeostat.demo.main import main

__all__ = ["main"]
