"""The report of a run: the HTML page and the tables for the terminal. Reads run records only."""

from homeostat.report.page import write_report
from homeostat.report.terminal import findings_table, journal_table, print_summary, runs_table

__all__ = ["findings_table", "journal_table", "print_summary", "runs_table", "write_report"]
