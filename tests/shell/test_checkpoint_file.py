"""What a checkpoint file holds comes back as it was; what it cannot hold is refused by name; damage is noticed."""

from __future__ import annotations

import math
import os
import random
from collections import Counter, OrderedDict
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from homeostat.core.errors import BadInput, CheckpointError
from homeostat.core.treatment import Fresh
from homeostat.core.units import Axis, UnitGroup
from homeostat.shell.checkpoint.encoding import Encoder, decode, read_file, write_file
from homeostat.shell.unit_graph.flatten import flattened, revived

MASK = os.umask(0o022)
os.umask(MASK)
DTYPES = [torch.bool, torch.uint8, torch.int32, torch.int64, torch.float16, torch.bfloat16, torch.float32,
          torch.float64, torch.complex64]  # fmt: skip


def same(a, b) -> bool:
    """Equal in type and value, all the way down; tensors in dtype, shape and bits, NaN equal to NaN."""
    if type(a) is not type(b) and not isinstance(a, OrderedDict):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and a.stride() == b.stride() and a.equal(b)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) and type(k) is type(j) for k, j in zip(a, b, strict=True))
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b or (a != a and b != b)


def there_and_back(value, folder):
    encoder = Encoder()
    head = encoder.encode(value, "it")
    write_file(folder / "x.safetensors", head, encoder.tensors)
    return decode(*read_file(folder / "x.safetensors"))


KEYS = st.text(max_size=4) | st.integers(-5, 2**70) | st.tuples(st.integers(0, 3), st.text(max_size=2)) | st.none()
TENSORS = st.builds(
    lambda dtype, shape: (torch.arange(math.prod(shape), dtype=torch.float64) - 2).to(dtype).reshape(shape),
    st.sampled_from(DTYPES),
    st.lists(st.integers(0, 3), max_size=3),
)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text() | TENSORS
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple)
    | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=12,
)  # fmt: skip


@given(VALUES)
@settings(deadline=None, max_examples=60)
def test_any_nested_plain_value_comes_back_as_it_was(tmp_path_factory, value):
    assert same(value, there_and_back(value, tmp_path_factory.getbasetemp()))


def test_long_lists_arrays_counters_and_memory_formats_come_back(tmp_path):
    image = torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    value = {
        "floats": [random.random() for _ in range(99)] + [math.nan, -0.0, math.inf],
        "ints": list(range(-50, 50)),
        "mixed": [1, 2.0, None] * 30,
        "bools": [True, False] * 30,
        "huge": [2**80] * 40,
        "array": np.arange(5, dtype=np.uint32),
        "image": image,
        "turned": torch.arange(6.0).reshape(2, 3).T,
        "wide": torch.ones(1).expand(3),
        "milestones": Counter({3: 2}),
    }
    back = there_and_back(value, tmp_path)
    value["wide"] = value["wide"].contiguous()
    assert same(value, back) and isinstance(back["milestones"], Counter)
    assert [str(v) for v in back["floats"]] == [str(v) for v in value["floats"]]


def test_a_tensor_that_is_there_twice_is_stored_once_and_comes_back_as_one(tmp_path):
    weight = torch.randn(4, 4)
    back = there_and_back({"a": weight, "b": weight.detach(), "row": weight[0]}, tmp_path)
    assert back["a"] is back["b"] and back["row"].data_ptr() != back["a"].data_ptr()
    assert torch.equal(back["row"], weight[0])


def test_units_become_plain_values_and_other_classes_are_never_made(tmp_path):
    axis = Axis("0.weight", 0, torch.arange(3))
    group = UnitGroup("0", 3, (axis,), (axis,), nonlinearity="relu", consumer_biases=(None,))
    back = revived(there_and_back(flattened({"groups": (group,), "fresh": Fresh("uniform", 0.5)}), tmp_path))
    (made,) = back["groups"]
    assert made.layer == "0" and back["fresh"] == Fresh("uniform", 0.5) and made.consumer_biases == (None,)
    assert torch.equal(made.rows[0].owner, torch.arange(3))
    for bad in ("os.system", "homeostat.core.units.torch", "homeostat.core.units.gone"):
        with pytest.raises(BadInput, match="not kept in checkpoints"):
            revived({"of": bad, "fields": {}})
    with pytest.raises(BadInput, match="damaged or written by something else"):
        decode({"eval": "1"}, {})


@dataclass
class Stranger:
    x: int = 0


@pytest.mark.parametrize(
    "value",
    [{1, 2}, object(), len, Stranger(), torch.ones(3).to_sparse(), torch.empty(2, device="meta"), np.array(["a"]),
     np.array([object()]), b"bytes", {"deep": [{"er": {(1, 2): (3, [slice(2)])}}]}],
)  # fmt: skip
def test_what_cannot_be_kept_is_refused_by_name(value):
    with pytest.raises(BadInput, match=r"state\.extra"):
        Encoder().encode({"extra": value}, "state")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("c") / "x.safetensors"
    encoder = Encoder()
    write_file(path, encoder.encode({"a": torch.arange(64.0), "n": 5}), encoder.tensors)
    return path, path.read_bytes()


@given(st.data())
@settings(deadline=None, max_examples=150)
def test_a_flipped_or_cut_file_is_never_believed(written, data):
    path, whole = written
    at = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        path.write_bytes(whole[:at])
    else:
        broken = bytearray(whole)
        broken[at] ^= data.draw(st.integers(1, 255))
        path.write_bytes(broken)
    try:
        head, tensors = read_file(path)
    except CheckpointError:
        return
    value = decode(head, tensors)  # padding of the header is all that may differ unnoticed
    assert torch.equal(value["a"], torch.arange(64.0)) and value["n"] == 5


def test_other_files_are_refused_plainly(tmp_path):
    (tmp_path / "text").write_text("hello " * 100)
    save_file({"a": torch.ones(2)}, tmp_path / "foreign")
    torch.save({"a": 1}, tmp_path / "pickle")
    (tmp_path / "empty").touch()
    for name, says in {
        "text": "not a checkpoint",
        "foreign": "not written by run.save",
        "pickle": "not a checkpoint",
        "empty": "not a checkpoint",
        "gone": "there is no checkpoint",
        ".": "there is no checkpoint",
    }.items():
        with pytest.raises(CheckpointError, match=says):
            read_file(tmp_path / name)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    write_file(path, "old", {"a": torch.zeros(3)})
    (tmp_path / f".{path.name}.{os.uname().nodename}.999999999.a1b2.part").write_bytes(b"left by a killed process")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(CheckpointError, match=r"No space left.*untouched"):
        write_file(path, "new", {"a": torch.ones(3)})
    assert path.stat().st_mode & 0o777 == 0o666 & ~MASK
    assert read_file(path)[0] == "old" and [p.name for p in tmp_path.iterdir()] == [path.name]
    monkeypatch.undo()
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot write"):
        write_file(tmp_path / "file" / "x", "new", {})
