"""`~` in the paths that commands take as arguments."""

from __future__ import annotations

from pathlib import Path

import pytest

from cclm.cli.main import parse


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["pretrain", "~/c.yaml"], "config"),
        (["pretrain", "c.yaml", "--output-hdfs=~/h"], "output_hdfs"),
        (["pretrain", "c.yaml", "--resume=~/r"], "resume"),
        (["finetune", "c.yaml", "--checkpoint=~/r"], "checkpoint"),
        (["evaluate", "c.yaml", "--checkpoint=~/r"], "checkpoint"),
        (["demo", "~/world"], "out"),
        (["convert", "~/a", "b.th"], "checkpoint"),
        (["convert", "a", "~/b.th"], "out"),
        (["describe", "~/a"], "config"),
        (["parity", "~/a"], "folder"),
        (["run", "--task=xvnli", "--dist=1", "--output_dir=~/o"], "output_dir"),
        (["run", "--task=xvnli", "--dist=1", "--output_dir=o", "--checkpoint=~/x.th"], "checkpoint"),
        (["data", "check", "~/c.yaml"], "config"),
        (["data", "shard", "a", "~/out"], "out"),
        (["data", "index", "a", "--index-dir=~/x"], "index_dir"),
    ],
    ids=" ".join,
)
def test_the_home_folder_in_paths_of_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], name: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert str(getattr(parse(words), name)).startswith(f"{tmp_path}/")
