"""`cclm parity` says yes on the published numbers, and no as soon as any of them is changed."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cclm.cli.main import run
from cclm.parity.comparison import Item, compare
from cclm.parity.golden import read_golden
from cclm.parity.suite import compute

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def computed() -> dict[str, Item]:
    found, failures = compute(read_golden(GOLDEN))
    assert failures == {}
    return found


def test_every_item_is_equal(computed: dict[str, Item]) -> None:
    comparisons = compare(read_golden(GOLDEN).expected(), computed)
    assert len(comparisons) > 650
    assert [item for item in comparisons if not item.ok] == []


def changed(item: Item) -> Item:
    """The same item with one number (or name) altered by a thousandth, or by one."""
    if isinstance(item, torch.Tensor):
        flat = item.clone().flatten()
        where = int(flat.abs().argmax())
        flat[where] = flat[where] * 1.001 if flat.is_floating_point() else flat[where] + 1
        if item.is_floating_point() and flat[where] == item.flatten()[where]:
            flat[where] += 1e-6  # the learning rate 0
        return flat.view(item.shape)
    if isinstance(item, bool):
        return not item
    if isinstance(item, int):
        return item + 1
    if isinstance(item, float):
        return item * 1.01 or 1e-6
    if isinstance(item, str):
        return item + "x"
    return [*item, "one_more"]


def test_no_item_can_change_unnoticed(computed: dict[str, Item]) -> None:
    expected = read_golden(GOLDEN).expected()
    for name, item in expected.items():
        wrong = compare({name: changed(item)}, {name: computed[name]})
        assert not wrong[0].ok, f"{name} was changed and nobody noticed"


def test_unknown_and_missing_items_are_failures(computed: dict[str, Item]) -> None:
    expected = read_golden(GOLDEN).expected()
    surplus = compare(expected | {"outputs/never_heard_of": torch.ones(2)}, computed)
    assert [item.name for item in surplus if not item.ok] == ["outputs/never_heard_of"]
    for name in expected:
        fewer = {key: item for key, item in expected.items() if key != name}
        assert [item.name for item in compare(fewer, computed) if not item.ok] == [name]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    folder = tmp_path / "golden"
    shutil.copytree(GOLDEN, folder)
    return folder


def test_command_says_no(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A changed input changes what is computed, a changed output what is expected; both in one run."""
    tensors = load_file(copy / "two_process_inputs.safetensors")
    tensors["image"][0] *= 1.2
    save_file(tensors, copy / "two_process_inputs.safetensors")
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["scalars"]["region/loss_giou"] *= 1.0005
    (copy / "manifest.json").write_text(json.dumps(manifest))
    assert run(["parity", str(copy)]) == 1
    wrong = [line for line in capsys.readouterr().out.splitlines() if "NOT OK" in line]
    assert any("region/loss_giou" in line for line in wrong)
    assert any("two_process/rank1/loss_itc" in line for line in wrong)
    assert not any("image/loss_itc" in line for line in wrong)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda folder: (folder / "more.json").unlink(), "more.json is missing"),
        (lambda folder: (folder / "outputs.safetensors").write_bytes(b"torn"), "not a readable safetensors"),
        (lambda folder: (folder / "extra.json").write_text("{"), "not JSON"),
        (lambda folder: (folder / "later.json").write_text("{}"), "does not know the file"),
    ],
)
def test_incomplete_folders_are_refused(copy: Path, damage, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    damage(copy)
    assert run(["parity", str(copy)]) == 2
    assert sentence in capsys.readouterr().err
