"""One file per claim, on a shared harness; verdict files beside them."""

from homeostat.studies.harness import run_study
from homeostat.studies.study import Study
from homeostat.studies.table import show
from homeostat.studies.verdict import Expectation, Verdict

__all__ = ["Expectation", "Study", "Verdict", "run_study", "show"]
