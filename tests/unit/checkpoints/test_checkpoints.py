"""Checkpoints: everything comes back, and a damaged folder is never taken for a whole one."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from cclm import storage
from cclm.checkpoints.find import newest_checkpoint, open_checkpoint
from cclm.checkpoints.load import load_model, load_optimizer
from cclm.checkpoints.manifest import TornCheckpointError
from cclm.checkpoints.retention import checkpoint_steps
from cclm.errors import UserError
from tests.checkpoint_files import make_trained, save_checkpoint, save_trained


def newest(*places: Path):
    return newest_checkpoint(places, pytest.fail)


def file_of(checkpoint: Path, role: str) -> Path:
    (found,) = checkpoint.glob(f"{role}*")
    return found


def test_everything_comes_back_bit_for_bit(tmp_path):
    model, optimizer = make_trained(0)
    path = save_checkpoint(tmp_path, 7, model, optimizer, {"config": {"seed": 1}})
    other, other_optimizer = make_trained(seed=9, updates=1)
    checkpoint = newest(tmp_path)
    assert (checkpoint.path, checkpoint.step, checkpoint.state["config"]) == (path, 7, {"seed": 1})
    load_model(checkpoint, other)
    load_optimizer(checkpoint, other_optimizer)
    # First: looking up a parameter without state would add an empty one. Never updated means no state.
    assert set(other_optimizer.state) == set(other["used"].parameters())
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)
        assert optimizer.state[mine].keys() == other_optimizer.state[theirs].keys()
        for slot, value in optimizer.state[mine].items():
            assert torch.equal(value, other_optimizer.state[theirs][slot])


def test_odd_tensors_come_back(tmp_path):
    """Other dtypes, no elements, no dimensions, not contiguous."""
    values = {
        "bfloat": torch.randn(3, 5, dtype=torch.bfloat16), "every_second": torch.arange(7.0)[::2],
        "empty": torch.empty(0, 4), "scalar": torch.tensor(2.5, dtype=torch.float64), "turned": torch.randn(4, 6).T,
    }  # fmt: skip
    model = nn.ParameterDict(values)
    save_checkpoint(tmp_path, 1, model, torch.optim.SGD([{"params": [model["bfloat"]], "names": ["bfloat"]}]), {})
    other = nn.ParameterDict({name: torch.zeros_like(value) for name, value in values.items()})
    load_model(newest(tmp_path), other)
    assert all(torch.equal(other[name], value) for name, value in values.items())


def test_next_update_is_the_same(tmp_path):
    model, optimizer = make_trained(0)
    save_checkpoint(tmp_path, 7, model, optimizer, {})
    other, other_optimizer = make_trained(seed=9, updates=0)
    load_model(newest(tmp_path), other)
    load_optimizer(newest(tmp_path), other_optimizer)
    for each, its_optimizer in ((model, optimizer), (other, other_optimizer)):
        each["used"](torch.ones(5, 4)).square().sum().backward()
        its_optimizer.step()
    assert torch.equal(model["used"].weight, other["used"].weight)


def test_state_is_found_by_name_not_by_place(tmp_path):
    save_trained(tmp_path)
    other, optimizer = make_trained(seed=9, updates=0)
    for group in optimizer.param_groups:
        group["params"].reverse()
        group["names"].reverse()
    load_optimizer(newest(tmp_path), optimizer)
    assert optimizer.state[other["used"].weight]["exp_avg"].shape == (3, 4)


@pytest.mark.parametrize("role", ["model", "optimizer", "state", "manifest"])
@pytest.mark.parametrize("damage", ["missing", "cut", "flipped"])
def test_damaged_checkpoint_is_reported_and_the_one_before_is_taken(tmp_path, role, damage):
    older = save_trained(tmp_path, step=5)
    file = file_of(save_trained(tmp_path, step=10), role)
    content = bytearray(file.read_bytes())
    if damage == "missing":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    reported = []
    assert newest_checkpoint([tmp_path], reported.append).path == older
    [event] = reported
    assert event.folder == str(tmp_path / "step-00000010") and role in event.reason


def test_a_checkpoint_that_is_deleted_while_it_is_read_gives_way_to_a_newer_one(tmp_path, monkeypatch):
    """As another process of the run does, which saves and keeps only the last ones."""
    place = f"memory://{tmp_path.name}"
    save_trained(place, step=5, scratch=str(tmp_path))
    download = storage.download

    def download_late(url, path):
        if "step-00000005" in url:
            save_trained(place, step=10, scratch=str(tmp_path))
            storage.delete_folder(storage.join(place, "step-00000005"))
        return download(url, path)

    monkeypatch.setattr(storage, "download", download_late)
    reported = []
    assert newest_checkpoint([place], reported.append).step == 10
    [event] = reported
    assert event.reason == "it was deleted while it was read" and event.attempt is None


def test_no_flipped_or_missing_byte_of_the_manifest_passes(tmp_path):
    path = save_trained(tmp_path)
    whole = (path / "manifest.json").read_bytes()
    damaged = [whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :] for place in range(len(whole))]
    damaged += [whole[:end] for end in range(len(whole))]
    for content in damaged:
        (path / "manifest.json").write_bytes(content)
        with pytest.raises(TornCheckpointError):
            open_checkpoint(path)


def test_an_earlier_format_is_refused_in_words(tmp_path):
    path = save_trained(tmp_path)
    (path / "manifest.json").write_text(json.dumps({"format": 1, "files": {}}))
    with pytest.raises(TornCheckpointError, match="format is 1 and this version of cclm reads 2.*cclm convert"):
        open_checkpoint(path)


def test_pruned_by_number_not_by_spelling(tmp_path):
    for step in (2, 100_000_000, 30):
        save_trained(tmp_path, step=step)
    assert checkpoint_steps(str(tmp_path)) == [100_000_000, 30, 2]


def test_nothing_is_pickled(tmp_path):
    path = save_trained(tmp_path)
    assert sorted(file.suffix for file in path.iterdir()) == [".json", ".json", ".safetensors", ".safetensors"]


def test_other_model_is_refused_by_name(tmp_path):
    save_trained(tmp_path)
    with pytest.raises(UserError, match=r"used\.weight is \(3, 4\) there and \(3, 5\) here"):
        load_model(newest(tmp_path), nn.ModuleDict({"used": nn.Linear(5, 3), "unused": nn.Linear(2, 2)}))
    wider = nn.ModuleDict({"used": nn.Linear(4, 3), "unused": nn.Linear(2, 2), "extra": nn.Linear(1, 1)})
    with pytest.raises(UserError, match=r"only the model has extra\.bias"):
        load_model(newest(tmp_path), wider)


def test_manifest_names_every_file_with_its_size(tmp_path):
    path = save_trained(tmp_path)
    files = json.loads((path / "manifest.json").read_text())["files"].values()
    assert {entry["name"]: entry["size"] for entry in files} == {
        file.name: file.stat().st_size for file in path.iterdir() if file.name != "manifest.json"
    }
