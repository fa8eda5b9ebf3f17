"""Checkpoints: everything comes back, and a damaged folder is never taken for a whole one."""

import json

import pytest
import torch
from torch import nn

from cclm.checkpoints.save import (
    TornCheckpointError,
    checkpoint_folders,
    load_model,
    load_optimizer,
    newest_checkpoint,
    open_checkpoint,
    prune_checkpoints,
    save_checkpoint,
)
from cclm.errors import UserError


def make_trained(seed: int, updates: int = 3):
    torch.manual_seed(seed)
    model = nn.ModuleDict({"used": nn.Linear(4, 3), "unused": nn.Linear(2, 2)})
    groups = [
        {
            "params": [p for n, p in model.named_parameters() if n.endswith(end)],
            "lr": lr,
            "names": [n for n, _ in model.named_parameters() if n.endswith(end)],
        }
        for end, lr in (("weight", 0.1), ("bias", 0.2))
    ]
    optimizer = torch.optim.AdamW(groups, fused=True)
    for _ in range(updates):
        model["used"](torch.randn(5, 4)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return model, optimizer


def save(tmp_path, step=7, seed=0):
    model, optimizer = make_trained(seed)
    return save_checkpoint(tmp_path, step, model, optimizer, {"config": {"seed": 1}}), model, optimizer


def test_everything_comes_back_bit_for_bit(tmp_path):
    path, model, optimizer = save(tmp_path)
    other, other_optimizer = make_trained(seed=9, updates=1)
    checkpoint = newest_checkpoint(tmp_path, pytest.fail)
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


def test_next_update_is_the_same(tmp_path):
    _, model, optimizer = save(tmp_path)
    other, other_optimizer = make_trained(seed=9, updates=0)
    checkpoint = newest_checkpoint(tmp_path, pytest.fail)
    load_model(checkpoint, other)
    load_optimizer(checkpoint, other_optimizer)
    for each, its_optimizer in ((model, optimizer), (other, other_optimizer)):
        each["used"](torch.ones(5, 4)).square().sum().backward()
        its_optimizer.step()
    assert torch.equal(model["used"].weight, other["used"].weight)


def test_state_is_found_by_name_not_by_place(tmp_path):
    _, model, _ = save(tmp_path)
    other, optimizer = make_trained(seed=9, updates=0)
    for group in optimizer.param_groups:
        group["params"].reverse()
        group["names"].reverse()
    load_optimizer(newest_checkpoint(tmp_path, pytest.fail), optimizer)
    assert optimizer.state[other["used"].weight]["exp_avg"].shape == (3, 4)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["missing", "cut", "flipped"])
def test_damaged_checkpoint_is_reported_and_the_one_before_is_taken(tmp_path, name, damage):
    older, *_ = save(tmp_path, step=5)
    newer, *_ = save(tmp_path, step=10)
    file = newer / name
    content = bytearray(file.read_bytes())
    if damage == "missing":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    reported = []
    assert newest_checkpoint(tmp_path, reported.append).path == older
    assert len(reported) == 1
    assert "step-00000010" in reported[0]


def test_no_single_flipped_byte_of_the_manifest_passes(tmp_path):
    """Flips that leave the manifest readable must still not change what is loaded."""
    path, *_ = save(tmp_path)
    whole = (path / "manifest.json").read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        (path / "manifest.json").write_bytes(damaged)
        try:
            state = open_checkpoint(path).state
        except TornCheckpointError:
            continue
        assert state["step"] == 7  # white space


def test_unfinished_folder_is_not_seen_and_cleared_by_the_next_save(tmp_path):
    leftover = tmp_path / ".unfinished-step-00000003"
    leftover.mkdir()
    (leftover / "model.safetensors").write_bytes(b"half")
    assert newest_checkpoint(tmp_path, pytest.fail) is None
    save(tmp_path)
    assert not leftover.exists()


def test_saving_a_step_again_replaces_it(tmp_path):
    save(tmp_path, seed=0)
    _, model, _ = save(tmp_path, seed=1)
    other, _ = make_trained(seed=9)
    load_model(newest_checkpoint(tmp_path, pytest.fail), other)
    assert torch.equal(other["used"].weight, model["used"].weight)


def test_pruning_keeps_the_newest(tmp_path):
    for step in (2, 100_000_000, 30):  # by number, not by spelling
        save(tmp_path, step=step)
    prune_checkpoints(tmp_path, keep=2)
    assert [path.name for path in checkpoint_folders(tmp_path)] == ["step-100000000", "step-00000030"]
    assert not list(tmp_path.glob(".unfinished*"))


def test_nothing_is_pickled(tmp_path):
    path, *_ = save(tmp_path)
    assert sorted(file.suffix for file in path.iterdir()) == [".json", ".json", ".safetensors", ".safetensors"]


def test_other_model_is_refused_by_name(tmp_path):
    save(tmp_path)
    checkpoint = newest_checkpoint(tmp_path, pytest.fail)
    with pytest.raises(UserError, match=r"used\.weight is \(3, 4\) there and \(3, 5\) here"):
        load_model(checkpoint, nn.ModuleDict({"used": nn.Linear(5, 3), "unused": nn.Linear(2, 2)}))
    with pytest.raises(UserError, match=r"only the model has extra\.bias"):
        load_model(
            checkpoint, nn.ModuleDict({"used": nn.Linear(4, 3), "unused": nn.Linear(2, 2), "extra": nn.Linear(1, 1)})
        )


def test_manifest_of_the_right_kind(tmp_path):
    path, *_ = save(tmp_path)
    files = json.loads((path / "manifest.json").read_text())["files"]
    assert {name: entry["size"] for name, entry in files.items()} == {
        file.name: file.stat().st_size for file in path.iterdir() if file.name != "manifest.json"
    }
