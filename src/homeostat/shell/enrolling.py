"""Everything that observes and treats a network, put together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from homeostat.shell.anatomy import Anatomy
from homeostat.shell.cadence import Cadence
from homeostat.shell.measuring import Monitor
from homeostat.shell.network import Network
from homeostat.shell.patient import Patient
from homeostat.shell.probing import ProbeMaker
from homeostat.shell.regulating import fixed_cadences, regulators
from homeostat.shell.task_sets import TaskSets
from homeostat.shell.together import Together
from homeostat.shell.treating import Ward
from homeostat.shell.twinning import Beside

if TYPE_CHECKING:
    from homeostat.shell.engine import Engine


def enrol(engine: Engine, network: Network, in_loop: bool) -> Patient:
    """A patient of the engine, with its settings; no treatment is on yet.

    Args:
        in_loop: the user's loop can open the stages that optimizer steps do not show.
    """
    settings = engine.settings
    ward = Ward(network, settings.seed, settings.dry_run, engine.tell, in_loop)
    ward.strict = engine.strict
    beside = None if settings.twin is None else Beside(network, settings.twin)
    maker = ProbeMaker(network, settings.probe, settings.seed) if settings.probe else None
    tasks = TaskSets(network, settings.tasks, settings.seed, lambda: ward.task) if settings.tasks else None
    told = (engine.not_measured, maker, engine.failed)
    monitor = Monitor(network, engine.vitals, _cadence(engine), *told, tasks=tasks, beside=beside)
    turning = regulators(settings.controllers, ward, settings.gauges, engine.tell)

    def acts() -> bool:
        return bool(ward.courses or turning or engine.loop)

    def part() -> None:
        turning.clear()
        engine.end_loop()

    together = Together(network, ward, monitor, acts, settings.to_json(), engine.tell, part)
    anatomy = Anatomy(network, ward, monitor, engine.not_measured, lambda: engine.schedule(patient), engine.survive)
    anatomy.agreed = together.agreed
    patient = Patient(network, monitor, ward, turning, anatomy, together)
    return patient


def _cadence(engine: Engine) -> Cadence:
    settings = engine.settings
    judged = {name for c in engine.diagnostician.conditions.values() for name in c.reads}
    reads = [v for v in engine.vitals if v.name in judged]
    fixed = fixed_cadences(settings.controllers, settings.auto, settings.every, reads)
    return Cadence(engine.vitals, settings.budget, settings.every, fixed)
