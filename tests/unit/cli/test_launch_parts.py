"""What `cclm launch` knows of a command before any process starts."""

import json
import urllib.request
from pathlib import Path

import pytest
import yaml

from cclm.cli import launch_parts
from cclm.cli.launch import check_processes, launch, metrics_port
from cclm.cli.launch_parts import Part, parts_of
from cclm.cli.main import parse
from cclm.errors import UserError

ROOT = Path(__file__).parents[3]
DOMAIN = ["run", "--dist", "1", "--task", "nlvr_domain", "--output_dir", "out", "--output_hdfs", "s3://b/x"]


def test_a_command_is_one_part() -> None:
    [part] = parts_of(["finetune", "configs/cclm-base-ft/WIT.yaml", "output_dir=a", "output_hdfs=s3://b/c"])
    assert (part.name, part.folders) == ("finetune", ["a", "s3://b/c"])
    [part] = parts_of(["describe", "configs/cclm-base-ft/WIT.yaml"])
    assert (part.name, part.folders) == ("describe", [])


def test_a_task_of_two_trainings_is_two_parts() -> None:
    first, second = parts_of([*DOMAIN, "training.batch_size=12", "domain.training.max_steps=3"])
    assert (first.name, first.folders) == ("finetune", ["out", "s3://b/x"])
    assert second.folders == ["out/nlvr_ft", "s3://b/x/nlvr_ft"]
    assert first.config is not None and first.config.training.max_steps == 3
    assert second.config is not None and second.config.training.max_steps is None
    check_processes([second], 6)
    with pytest.raises(UserError, match="training.batch_size = 12 cannot be shared evenly by 8 processes"):
        check_processes([first, second], 8)


def test_a_mistake_in_any_part_shows() -> None:
    with pytest.raises(UserError, match="training.batchsize"):
        parts_of([*DOMAIN, "training.batchsize=12"])


@pytest.mark.parametrize(
    ("options", "behind", "port"),
    [
        ([], [], 9400),
        ([], ["--metrics-port", "9401"], 9401),
        (["--metrics-port", "9402"], [], 9402),
        (["--metrics-port", "9402"], ["--metrics-port", "9402"], 9402),
    ],
)
def test_the_launcher_serves_at_the_port_of_the_command(
    monkeypatch: pytest.MonkeyPatch, options: list[str], behind: list[str], port: int
) -> None:
    monkeypatch.setenv("CCLM_METRICS_PORT", "9400")
    command = ["pretrain", "configs/demo/pretrain.yaml", *behind]
    assert metrics_port(parse(["launch", *options, "--", *command]), command) == port


def test_metrics_are_served_before_the_config_is_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It may lie in a store that is away."""

    def read_config(command: list[str]) -> list[Part]:
        port = capsys.readouterr().err.rpartition(":")[2].removesuffix("/metrics\n")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
            assert b'cclm_phase{phase="preparing"} 1.0' in answer.read()
        raise UserError("read")

    monkeypatch.setattr(launch_parts, "parts_of", read_config)
    with pytest.raises(UserError, match="^read$"):
        launch(parse(["launch", "--metrics-port", "0", "--", "pretrain", "configs/demo/pretrain.yaml"]))


def test_two_ports_that_differ_are_refused() -> None:
    command = ["pretrain", "configs/demo/pretrain.yaml", "--metrics-port", "9401"]
    with pytest.raises(UserError, match="--metrics-port 9400 and, behind the command, --metrics-port 9401: "):
        metrics_port(parse(["launch", "--metrics-port", "9400", "--", *command]), command)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["configs/demo/pretrain.yaml"], "is a config for task pretrain; cclm pretrain takes it"),
        (["configs/demo/xvnli_fewshot.yaml", "--fewshot", "ar,"], "--fewshot ar,: give a language and a number"),
    ],
)
def test_what_every_process_would_refuse_shows_before_there_are_any(words: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        parts_of(["finetune", *words, "--checkpoint", "c"])


def test_published_batches_are_per_process(tmp_path: Path) -> None:
    """Otherwise 128 pictures could not be shared by 3 processes."""
    settings = json.loads((ROOT / "tests/data/published_settings.json").read_text())
    path = tmp_path / "published.yaml"
    path.write_text(yaml.safe_dump(settings["configs/Pretrain_3m.yaml"]))
    (tmp_path / "configs").mkdir()
    vision = "configs/config_swinB_224.json"
    (tmp_path / vision).write_text(json.dumps(settings[vision]))
    check_processes(parts_of(["pretrain", str(path)], processes=3), 3)
    with pytest.raises(UserError, match="cannot be shared by 3 processes"):
        check_processes(parts_of(["pretrain", str(path)], processes=1), 3)
