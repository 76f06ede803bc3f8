"""The tables of a run record, and the texts in the file that explain them."""

from __future__ import annotations

SCHEMA_VERSION = 1
"""`PRAGMA user_version` of a record. Increased if a reader of the old version could misread the new one."""

APPLICATION_ID = 0x484D5354
"""`PRAGMA application_id` of a record ("HMST"), which identifies a run record among SQLite files."""

SUFFIX = ".sqlite"

RUN_FACTS = ("command", "cwd", "seed", "settings", "environment", "started_utc", "ended_utc")
"""Columns of the table `run` that an export lists under "facts"; other facts must not have these names."""

TABLES = """
CREATE TABLE about (name TEXT PRIMARY KEY, what TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE run (
    run TEXT NOT NULL, script TEXT NOT NULL, command TEXT NOT NULL, cwd TEXT NOT NULL, seed INTEGER,
    settings TEXT NOT NULL, environment TEXT NOT NULL, started_utc TEXT NOT NULL, updated_utc TEXT NOT NULL,
    ended_utc TEXT, status TEXT NOT NULL, host TEXT NOT NULL, pid INTEGER NOT NULL, birth TEXT NOT NULL,
    steps INTEGER NOT NULL DEFAULT 0, wall_seconds REAL NOT NULL DEFAULT 0, overhead REAL
);
CREATE TABLE series (id INTEGER PRIMARY KEY, vital TEXT NOT NULL, layer TEXT NOT NULL, UNIQUE (vital, layer));
CREATE TABLE vitals (
    series INTEGER NOT NULL REFERENCES series (id), step INTEGER NOT NULL, value REAL, PRIMARY KEY (series, step)
) WITHOUT ROWID;
CREATE TABLE findings (id INTEGER PRIMARY KEY, finding TEXT NOT NULL);
CREATE TABLE finding_events (
    id INTEGER PRIMARY KEY, step INTEGER NOT NULL, event TEXT NOT NULL, condition TEXT NOT NULL,
    severity TEXT NOT NULL, finding TEXT NOT NULL
);
CREATE TABLE journal (
    id INTEGER PRIMARY KEY, step INTEGER NOT NULL, component TEXT NOT NULL, action TEXT NOT NULL,
    place TEXT NOT NULL, why TEXT NOT NULL, before REAL, after REAL, detail TEXT NOT NULL
);
CREATE TABLE boundaries (id INTEGER PRIMARY KEY, step INTEGER NOT NULL, label TEXT NOT NULL);
CREATE TABLE cadences (id INTEGER PRIMARY KEY, step INTEGER NOT NULL, vital TEXT NOT NULL, every INTEGER NOT NULL);
CREATE TABLE not_measured (
    id INTEGER PRIMARY KEY, what TEXT NOT NULL, why TEXT NOT NULL, UNIQUE (what, why) ON CONFLICT IGNORE
);
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE VIEW vital_values AS
    SELECT s.vital, s.layer, v.step, v.value FROM vitals v JOIN series s ON s.id = v.series;
"""

MARKS = f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION};"

ABOUT: dict[str, str] = {
    "about": "What every table and column of this file means. Steps count completed optimizer steps. Times are UTC, "
    "ISO 8601. Text columns called JSON hold one JSON value.",
    "run": "One row: what was run, where, when, and how it ended.",
    "run.run": "The run's id, equal to the file's name without .sqlite.",
    "run.script": "The script or module as it was named on the command line.",
    "run.command": "JSON list: the full command line.",
    "run.cwd": "Working directory.",
    "run.seed": "Seed of Homeostat's random draws; NULL if none was given.",
    "run.settings": "JSON object: Homeostat's settings in this run.",
    "run.environment": "JSON object: versions, platform, devices, cores and threads.",
    "run.started_utc": "When the record was created.",
    "run.updated_utc": "When the record was last written.",
    "run.ended_utc": "When the run was closed; NULL if it was not.",
    "run.status": "running, finished, failed or interrupted. 'running' in a process that is gone means unfinished.",
    "run.host": "Name of the machine.",
    "run.pid": "Process id of the run.",
    "run.birth": "When that process started, in the system's clock ticks; a later process of the same id has another.",
    "run.steps": "Optimizer steps completed at the last write.",
    "run.wall_seconds": "Wall-clock seconds since the first step, at the last write.",
    "run.overhead": "Fraction of those seconds spent inside Homeostat; NULL if unknown.",
    "series": "One row for every vital of every layer.",
    "series.vital": "Name of the vital, e.g. dormant-units.",
    "series.layer": "Name of the layer, prefixed with its network where there are several; 'network' is the whole.",
    "vitals": "The measurements. The view vital_values joins them with their names.",
    "vitals.value": "The value; NULL if it was due and could not be measured; may be infinite, never NaN.",
    "findings": "The findings at the last write, causes before what follows from them.",
    "findings.finding": "JSON object: condition, severity, since_step, layers, evidence, prescriptions, follows.",
    "finding_events": "When findings appeared, changed severity or layers, and were resolved.",
    "finding_events.event": "appeared, severity, layers or gone.",
    "finding_events.finding": "JSON object: the finding after the event (before it for gone).",
    "journal": "What was done to the run, in order.",
    "journal.component": "Who did it: a treatment, a controller, the closed loop, the shell.",
    "journal.action": "attach, edit, knob, keep, strengthen, revert, refuse, boundary or error.",
    "journal.place": "Layers, parameters or a knob.",
    "journal.before": "The vital or knob before the action; NULL if there is none.",
    "journal.after": "The vital or knob after the action; NULL if there is none.",
    "journal.detail": "JSON object: further values.",
    "boundaries": "Steps at which the user began a new task or phase.",
    "cadences": "Cadences of vitals: from step on, measured every so many steps.",
    "not_measured": "What could not be measured, and why.",
    "facts": "Other facts: name and JSON value.",
}
