"""Studies: one file per claim, a shared harness, and the verdict files."""

from homeostat.studies.lab.expectation import Expectation
from homeostat.studies.lab.harness import run_study
from homeostat.studies.lab.study import Study
from homeostat.studies.lab.tables import show
from homeostat.studies.lab.verdict import Verdict

__all__ = ["Expectation", "Study", "Verdict", "run_study", "show"]
