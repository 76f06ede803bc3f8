"""Families of curves, fitted and forecast with intervals. Papers call them scaling laws."""

from homeostat.curves.entropy_reward import EntropyReward
from homeostat.curves.power_law import PowerLaw

__all__ = ["EntropyReward", "PowerLaw"]
