"""Shows a run: the self-contained page, and tables for the terminal. Reads records only."""

from homeostat.report.page import write_report
from homeostat.report.terminal import findings_table, journal_table, print_summary, runs_table

__all__ = ["findings_table", "journal_table", "print_summary", "runs_table", "write_report"]
