"""`cclm describe` of checkpoints and runs: what is damaged is said, in one sentence and by the exit code."""

from pathlib import Path

import pytest

from cclm.cli import main as cli
from tests.checkpoint_files import save_trained


def flip_first(folder: Path, role: str) -> str:
    """Damage the first byte of a checkpoint's file; returns its name."""
    (path,) = folder.glob(f"{role}-*")
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)
    return path.name


@pytest.mark.parametrize("options", [[], ["--verify"]])
def test_a_flipped_byte_of_the_state(tmp_path, capsys, options):
    folder = save_trained(tmp_path)
    name = flip_first(folder, "state")
    assert cli.run(["describe", str(folder), *options]) == 1
    assert capsys.readouterr().out == (
        f"{folder} is not a whole checkpoint: {name} differs from the checksums in its manifest\n"
    )


@pytest.mark.parametrize("role", ["model", "optimizer", "state"])
def test_verify_finds_a_flipped_byte_of_any_file(tmp_path, capsys, role):
    save_trained(tmp_path, 6)
    folder = save_trained(tmp_path, 7)
    name = flip_first(folder, role)
    assert cli.run(["describe", str(folder), "--verify"]) == 1
    assert f"is not a whole checkpoint: {name} differs" in capsys.readouterr().out
    assert cli.run(["describe", str(tmp_path), "--verify"]) == 1
    good, torn = capsys.readouterr().out.splitlines()
    assert torn == f"{folder}: torn, {name} differs from the checksums in its manifest"
    assert good.startswith(f"{tmp_path}/step-00000006: verified, ")


@pytest.mark.parametrize(("options", "verdict"), [([], "whole: "), (["--verify"], "verified: every byte agrees")])
def test_a_good_one(tmp_path, capsys, options, verdict):
    folder = save_trained(tmp_path)
    assert cli.run(["describe", str(folder), *options]) == 0
    shown = capsys.readouterr().out
    assert f"checkpoint {folder}\n" in shown and "step       7\n" in shown
    assert shown.splitlines()[-1].startswith(verdict)
    assert cli.run(["describe", str(tmp_path), *options]) == 0
    assert f"step-00000007: {verdict.split(':')[0]}, " in capsys.readouterr().out
