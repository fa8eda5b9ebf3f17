"""`cclm convert`: what it refuses before it converts anything."""

import argparse

import pytest

from cclm.cli.convert import convert
from cclm.errors import UserError
from tests.checkpoint_files import make_trained, save_checkpoint


@pytest.mark.parametrize(
    ("out", "sentence"),
    [("/proc/out.th", "output folder /proc cannot be written to"), ("/nowhere/out.th", "/nowhere .* does not exist")],
)
def test_convert_looks_at_its_output_first(tmp_path, out, sentence):
    with pytest.raises(UserError, match=sentence):
        convert(argparse.Namespace(checkpoint=str(tmp_path), out=out))


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        ({}, "does not tell its config"),
        ({"config": {"task": "answering"}}, "is of task answering; only checkpoints of pre-training"),
        ({"config": {"seed": "x"}}, "the config in .* cannot be used"),
    ],
)
def test_convert_takes_pretraining_only(tmp_path, state, sentence):
    path = save_checkpoint(tmp_path, 5, *make_trained(0), state)
    with pytest.raises(UserError, match=sentence):
        convert(argparse.Namespace(checkpoint=str(path), out=str(tmp_path / "out.th")))


def test_convert_under_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=f"since {tmp_path}/file is a file"):
        convert(argparse.Namespace(checkpoint=str(tmp_path), out=str(tmp_path / "file" / "out.th")))
