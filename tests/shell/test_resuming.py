"""A resumed run is bit for bit the uninterrupted one."""

from __future__ import annotations

import copy
import random
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_scripts import LAST, SAVED, Generated, Scaled, Script, Several, Small, assert_same

from homeostat.core import component
from homeostat.core.component import Cite, components
from homeostat.core.errors import BadInput
from homeostat.core.finding import JournalEntry
from homeostat.core.treatment import Stage, Treatment
from homeostat.diagnosis.closed_loop import Action
from homeostat.record import open_record
from homeostat.shell.hooks.step_hooks import STEP_HOOKS


def check_resumes(script, path, **options) -> None:
    """A run that is saved on its way (which changes nothing, see below) against one that goes on from there in fresh
    objects built from another seed."""
    whole = script(**options)
    whole.go(SAVED)
    whole.run.save(path)
    whole.go(LAST)
    expected = whole.everything()
    whole.run.detach()
    second = script(seed=99, resume=path, **options)
    assert second.run.steps == SAVED
    second.go(LAST)
    found = second.everything()
    second.run.detach()
    # the losses of the last steps before saving are recorded at the first sample after resuming
    assert_same({**expected, "vitals": later(expected["vitals"])}, {**found, "vitals": later(found["vitals"])})


def later(vitals):
    return {v: {k: [p for p in line if p[0] > SAVED] for k, line in by.items()} for v, by in vitals.items()}


@pytest.mark.parametrize("script", [Script, Scaled, Several, Small, Generated])
def test_a_resumed_run_is_bit_exact_with_the_uninterrupted_one(script, tmp_path):
    treatments = [
        "continual-backprop:replacement_rate=0.02,maturity_threshold=3",
        "l2-init",
        "shrink-and-perturb:every=7",
    ]
    control = ["pi:vital=loss,knob=l2-init.strength,every=4"]
    check_resumes(script, tmp_path / "x.safetensors", treatments=treatments, controllers=control)


def steppable():
    stages = (Stage.MODULES, Stage.GRADIENT, Stage.UPDATE, Stage.BOUNDARY)
    return [name for name, cls in components("treatment").items() if cls.stage in stages]


@pytest.mark.parametrize("name", steppable())
def test_every_treatment_goes_on_where_it_was(name, tmp_path):
    cls = components("treatment")[name]
    check_resumes(Script, tmp_path / "x.safetensors", treatments=[cls(**cls.trial)], vitals=["loss"])


def idle() -> Treatment:
    """Edits of modules that find nothing to do."""

    @dataclass(frozen=True, kw_only=True)
    class Idle(Treatment):
        """Nothing.

        >>> Idle()
        Idle()
        """

        name = "idle"
        cite = Cite("Nobody", 2026, "Nothing")
        stage = Stage.MODULES

        def plan(self, view, state, knobs):
            return [], state

    return Idle()


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 0, 1)])
def test_several_edits_of_modules_are_done_again_each_on_the_network_it_found(order, tmp_path, monkeypatch):
    monkeypatch.setattr(component, "REGISTRY", {kind: dict(of) for kind, of in component.REGISTRY.items()})
    several = ["layer-norm-insertion", "adab2n", idle()]
    treatments = [*(several[i] for i in order), "redo:every=5"]
    check_resumes(Script, tmp_path / "x.safetensors", treatments=treatments, vitals=["loss"])


class Healed(Script):
    """The closed loop begins a treatment that the user never named, and refuses another."""

    def step(self) -> None:
        super().step()
        if self.run.steps == 5:
            healer = self.run._run.closed_loop
            assert healer is not None
            for text in ("redo:every=3,threshold=0.6", "no-such-treatment"):
                entry = JournalEntry(5, "closed-loop", "attach", "one", "a finding")
                healer._carry_out(Action("start", text, "dormant-units", entry), 5)


def test_the_closed_loop_goes_on_with_what_it_had_begun(tmp_path):
    check_resumes(Healed, tmp_path / "x", treatments=["auto"], every=1)
    again = Healed(treatments=["auto"], every=1, resume=tmp_path / "x")
    (course,) = again.run._network.treatments.applied
    assert course.name == "redo" and course.begun and course.acted and course.treatment.every == 3
    assert again.run._run.closed_loop.refused.keys() == {"no-such-treatment"}
    again.run.detach()


def test_resuming_goes_on_in_the_same_record(tmp_path):
    whole = Script(record=tmp_path / "whole", treatments=["redo:every=5"], every=2)
    whole.go(LAST)
    whole.run.detach()
    first = Script(record=tmp_path / "cut", treatments=["redo:every=5"], every=2)
    first.go(SAVED)
    first.run.save(tmp_path / "x")
    first.go(LAST - 3)
    first.run.detach("failed")
    second = Script(seed=5, record=tmp_path / "cut", treatments=["redo:every=5"], every=2, resume=tmp_path / "x")
    assert second.run.id == first.run.id
    second.go(LAST)
    assert second.run.vitals() == whole.run.vitals()
    second.run.detach()
    with open_record("last", tmp_path / "cut") as cut, open_record("last", tmp_path / "whole") as reader:
        assert cut.meta.status == "finished" and cut.meta.steps == LAST
        assert cut.vitals() == reader.vitals() and cut.findings() == reader.findings()
        assert cut.boundaries() == reader.boundaries()
        (fact,) = cut.facts()["resumed"]
        assert (fact["step"], fact["superseded_steps"]) == (SAVED, LAST - 3 - SAVED)
        (entry,) = [e for e in cut.journal() if e.action == "resume"]
        assert entry.step == SAVED and f"{LAST - 3 - SAVED} steps recorded after it are left out" in entry.why


def test_a_record_that_somebody_writes_or_that_is_gone_or_broken_is_not_continued(tmp_path):
    first = Script(record=tmp_path)
    first.go(3)
    first.run.save(tmp_path / "x")
    with pytest.warns(RuntimeWarning, match="still running in another process"):
        second = Script(record=tmp_path, resume=tmp_path / "x")
    assert second.run.id != first.run.id and second.run.steps == 3
    second.run.detach()
    with open_record(second.run.id, tmp_path) as reader:
        assert reader.facts()["parent"] == first.run.id
    first.run.detach()
    assert first.run.path is not None
    first.run.path.write_bytes(b"broken" * 1000)
    with pytest.warns(RuntimeWarning, match=r"cannot be continued.*damaged"):
        Script(record=tmp_path, resume=tmp_path / "x").run.detach()
    elsewhere = Script(record=tmp_path / "else", resume=tmp_path / "x")
    assert elsewhere.run.id != first.run.id
    elsewhere.run.detach()


def test_checkpoints_taken_by_themselves_hold_the_finished_step(tmp_path):
    """The scheduler, scaler and average move after the optimizer's step, and belong to it."""
    path = tmp_path / "deep" / "x.safetensors"
    for script in (Scaled, Several):
        whole = script(checkpoint=path, checkpoint_every=5, treatments=["redo:every=3"])
        whole.go(LAST)
        expected = whole.everything()
        STEP_HOOKS.unsubscribe(whole.run._autosave)  # as if the process ended here, before step 25 was begun
        whole.run._autosave._draft = None
        whole.run.detach()
        second = script(seed=7, resume=path, treatments=["redo:every=3"])
        assert second.run.steps == 20
        second.go(LAST)
        assert_same(expected["model"], second.model.state_dict())
        assert_same(expected["extra"], {n: t.state_dict() for n, t in second.extra.items()})
        second.run.detach()


def test_the_last_step_is_saved_when_the_run_is_detached(tmp_path):
    script = Script(checkpoint=tmp_path / "x", checkpoint_every=4)
    script.go(4)
    assert not (tmp_path / "x").exists()
    script.run.detach()
    again = Script(resume=tmp_path / "x")
    assert again.run.steps == 4
    again.run.detach()
    assert_same(script.model.state_dict(), again.model.state_dict())


def test_saving_changes_nothing(tmp_path):
    prints = []
    for saves in (False, True):
        script = Small(treatments=["redo:every=5"], controllers=["pi:vital=dormant-units,knob=lr,every=4"])
        for number in range(1, LAST):
            script.go(number)
            if saves:
                script.run.save(tmp_path / "x")
        prints.append(script.everything())
        script.run.detach()
    assert_same(*prints)


def test_homeostat_alone_is_saved_where_the_script_saves_the_rest(tmp_path):
    whole = Script(treatments=["continual-backprop:replacement_rate=0.05,maturity_threshold=3"])
    whole.go(LAST)
    first = Script(treatments=["continual-backprop:replacement_rate=0.05,maturity_threshold=3"])
    first.go(SAVED)
    first.run.save(tmp_path / "x", network=False)
    own = copy.deepcopy([first.model.state_dict(), first.optimizer.state_dict(), first.scheduler.state_dict()])
    streams = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002
    first.run.detach()
    second = Script(
        seed=9, treatments=["continual-backprop:replacement_rate=0.05,maturity_threshold=3"], resume=tmp_path / "x"
    )
    for thing, state in zip((second.model, second.optimizer, second.scheduler), own, strict=True):
        thing.load_state_dict(state)
    torch.set_rng_state(streams[0]), random.setstate(streams[1]), np.random.set_state(streams[2])  # noqa: NPY002
    second.go(LAST)
    assert_same(whole.model.state_dict(), second.model.state_dict())
    for script in (whole, second):
        script.run.detach()


def test_what_is_known_of_the_units_is_not_learned_again_from_trained_weights(tmp_path):
    first = Script(treatments=["redo:every=5"])
    first.go(2)
    units = first.run.units()
    first.run.save(tmp_path / "x")
    first.run.detach()
    again = Script(seed=3, treatments=["redo:every=5"], resume=tmp_path / "x")
    assert again.run.units() == units and units  # before any forward pass
    again.run.detach()


def test_states_go_through_torch_save_without_pickled_classes(tmp_path):
    script = Script(treatments=["redo:every=5"], controllers=["pi:vital=loss,knob=lr,every=4"])
    script.go(5)
    torch.save(script.run.state_dict(), tmp_path / "x.pt")
    loaded = torch.load(tmp_path / "x.pt", weights_only=True)
    script.run.detach()
    other = Script(treatments=["redo:every=5"], controllers=["pi:vital=loss,knob=lr,every=4"])
    with pytest.raises(BadInput, match="saved by an older Homeostat; this one reads format"):
        other.run.load_state_dict({**loaded, "format": 3})
    other.run.load_state_dict(loaded)
    assert other.run.steps == 5
    other.run.detach()


def test_a_knob_may_be_changed_when_a_run_is_resumed_and_other_settings_not(tmp_path):
    first = Script(treatments=["redo:every=5"])
    first.go(6)
    first.run.save(tmp_path / "x")
    first.run.detach()
    second = Script(treatments=["redo:every=5,threshold=0.2"], resume=tmp_path / "x")
    (entry,) = [e for e in second.run.journal() if e.action == "knob"]
    assert float(second.run._network.treatments.knob("redo.threshold")) == 0.2 and entry.after == 0.2
    second.run.detach()
    with pytest.raises(BadInput, match=r"redo.every was 5 in the saved run and cannot become 6"):
        Script(treatments=["redo:every=6"], resume=tmp_path / "x")


def test_a_treatment_that_had_been_stopped_stays_stopped_and_a_new_one_begins(tmp_path):
    first = Script(treatments=["redo:every=5", "l2-init"])
    first.go(3)
    first.run._network.treatments.stop("l2-init", "error", "it failed")
    first.run.save(tmp_path / "x")
    first.run.detach()
    second = Script(treatments=["redo:every=5", "l2-init", "shrink-and-perturb:every=2"], resume=tmp_path / "x")
    assert [c.name for c in second.run._network.treatments.applied] == ["redo", "shrink-and-perturb"]
    second.go(8)
    assert all(c.begun and c.acted for c in second.run._network.treatments.applied[1:])
    second.run.detach()


def test_nothing_is_said_when_all_goes_well(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        script = Script(record=tmp_path, checkpoint=tmp_path / "x", checkpoint_every=2)
        script.go(5)
        script.run.detach()
        again = Script(record=tmp_path, resume=tmp_path / "x", checkpoint=tmp_path / "x", checkpoint_every=2)
        again.go(7)
        again.run.detach()
    assert again.run.id == script.run.id


def test_the_page_about_resuming_shows_what_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[2] / "docs" / "resume.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    ends = []
    for stops in ((130, 300), (300,)):
        (tmp_path / "checkpoint.safetensors").unlink(missing_ok=True)
        for stop in stops:
            torch.manual_seed(0)
            names: dict[str, Any] = {}
            exec(code.replace("range(run.steps, 300)", f"range(run.steps, {stop})"), names)
            assert names["run"].steps == stop
        ends.append(names["model"].state_dict())
    assert_same(*ends)
