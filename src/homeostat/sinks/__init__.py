"""Where the values and alerts of a run are also written to: experiment trackers, and messages to people."""

from homeostat.sinks.choose import make_sinks, tracker_names
from homeostat.sinks.notifier import Notifier
from homeostat.sinks.sink import Alert, RunSink, Value, series_name

__all__ = ["Alert", "Notifier", "RunSink", "Value", "make_sinks", "series_name", "tracker_names"]
