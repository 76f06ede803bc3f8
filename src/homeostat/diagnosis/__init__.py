"""From vitals over time to findings and remedies."""

from homeostat.diagnosis.closed_loop import Action, ClosedLoop, LoopPolicy
from homeostat.diagnosis.condition import Condition, Sign
from homeostat.diagnosis.diagnostician import Diagnostician
from homeostat.diagnosis.facts import Facts, OptimizerFacts
from homeostat.diagnosis.history import History
from homeostat.diagnosis.prescriptions import Remedy, prescriptions_for, remedies_for

__all__ = [
    "Action",
    "ClosedLoop",
    "Condition",
    "Diagnostician",
    "Facts",
    "History",
    "LoopPolicy",
    "OptimizerFacts",
    "Remedy",
    "Sign",
    "prescriptions_for",
    "remedies_for",
]
