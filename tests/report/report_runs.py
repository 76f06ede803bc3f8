"""A record with known content, healthy and sick runs, small and huge ones."""

import math
from dataclasses import replace

from homeostat.core.finding import Finding, JournalEntry, Prescription
from homeostat.record import RunRecord

TEXT = "93% of the units of fc1 are dormant (at the start 8%) (and 1 more)"
SHARES = {"fc1": {"share": 0.9312, "share_at_start": 0.0812}, "fc2": {"share": 0.6431, "share_at_start": 0.05}}
REMEDIES = (
    Prescription("pull the weights gently towards their initial values", "l2-init:strength=1e-3", "l2-init", "holds"),
    Prescription("reset the least used units at a slow rate", "continual-backprop:replacement_rate=1e-4"),
    Prescription("lower the learning rate, or warm it up"),
)
DORMANT = Finding(
    "dormant-units",
    "critical",
    1200,
    ("fc1", "fc2"),
    {"text": TEXT, **SHARES["fc1"], "by_layer": SHARES},
    REMEDIES,
)
RANK = Finding(
    "rank-collapse",
    "warning",
    2310,
    ("fc2",),
    {"text": "effective rank of fc2 fell from 61.3 to 9.417", "now": 9.417, "start": 61.3},
    (Prescription("shrink the weights a little and add fresh noise", "shrink-and-perturb"),),
    "dormant-units",
)
OSCILLATING = Finding(
    "oscillating-loss", "info", 600, (), {"text": "the loss swings by 12% around its mean", "swing": 0.1237}
)
JOURNAL = [
    JournalEntry(1500, "redo", "edit", "fc1", "41 units below the threshold", 0.7613, 0.2117, {"units": 41}),
    JournalEntry(
        1800, "closed-loop", "keep", "redo", "the share of dormant units fell and stayed down", 0.7613, 0.3519
    ),
    JournalEntry(2000, "adaptive-rate", "knob", "redo.threshold", "share above the set-point", 0.025, 0.0501),
]


def wave(step, layer, start, end):
    share = 1 / (1 + math.exp(-(step - 1800) / 500))
    return start + (end - start) * share + 0.03 * (end - start) * math.sin(step / 70 + 2 * layer)


def fill(record, layers=("fc1", "fc2", "head"), last=4000, every=20):
    for step in range(every, last + 1, every):
        rows = []
        for i, layer in enumerate(layers):
            missing = i == 2 and 2000 < step < 2400
            rows.append((step, "dormant-units", layer, None if missing else abs(wave(step, i, 0.05, 0.93 / (i + 1)))))
            rows.append((step, "effective-rank", layer, wave(step, i, 61.0 - 5 * i, 9.4 + 3 * i)))
            norm = math.inf if (i, step) == (0, 3000) else math.exp(wave(step, i, 1.0 + i, -7.0 + i))
            rows.append((step, "gradient-norm", layer, norm))
        rows.append((step, "loss", "network", wave(step, 0, 2.4, 0.7) + 0.4 * math.exp(-(step % 1000) / 90)))
        record.add_vitals(rows)
        record.progress(step, step * 0.004, 0.0147)
    for boundary in range(1000, last, 1000):
        record.add_boundary(boundary, f"task {boundary // 1000 + 1}")
    for vital in ("loss", "dormant-units", "effective-rank", "gradient-norm"):
        record.set_cadence(0, vital, every)
    record.set_cadence(2000, "effective-rank", 4 * every)
    return record


def sick(folder=None):
    record = fill(
        RunRecord.create(folder, script="examples/drifting_digits.py", command=["homeostat", "run", "x.py"], seed=3)
    )
    record.set_findings(620, [OSCILLATING])
    record.set_findings(
        1260,
        [replace(DORMANT, severity="warning", layers=("fc1",)), OSCILLATING],
    )
    record.set_findings(1900, [DORMANT, OSCILLATING])
    record.set_findings(2330, [OSCILLATING, DORMANT, RANK])
    record.set_findings(3100, [DORMANT, RANK])
    for entry in JOURNAL:
        record.add_journal(entry)
    record.add_not_measured("sharpness", "no probe=(batch, loss_fn) was given")
    record.set_facts(networks={"network": "Sequential"})
    return record


def healthy(folder=None):
    record = RunRecord.create(folder, script="fine.py", seed=0)
    record.add_vitals([(s, "loss", "network", 1 / s) for s in range(1, 200)])
    record.progress(200, 1.25, 0.011)
    return record


HOSTILE = "<script>alert(1)</script>"


def huge(layers=200, steps=4000):
    """Two hundred layers, a hundred tasks, thousands of journal entries, names that try to be markup."""
    record = RunRecord.create(None, script=f"{HOSTILE}.py")
    names = [f"blocks.{i // 4}.part{i % 4}" for i in range(layers - 1)] + [HOSTILE]
    fill(record, names, last=steps, every=40)
    text = {"text": f"half of {HOSTILE} is gone & more", "</script>": 1.5}
    record.set_findings(500, [Finding("dormant-units", "warning", 400, (*names[:50], HOSTILE), text)])
    for step in range(1, steps):
        record.add_journal(JournalEntry(step, "continual-backprop", "edit", HOSTILE, "&lt;b&gt;", 0.5, 0.1))
    for step in range(40, steps, 40):
        record.add_boundary(step, f"task {step // 40} {HOSTILE}")
    return record
