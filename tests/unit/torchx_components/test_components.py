"""The components: TorchX accepts them, and what they start is the command of cclm that they are named after."""

import argparse
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from torchx.components.component_test_base import ComponentTestCase
from torchx.specs import AppDef
from torchx.specs.builders import materialize_appdef, parse_args
from torchx.specs.finder import ComponentValidationException

import torchx_components
from cclm.cli import launch
from cclm.cli.main import parse
from cclm.cli.run_commands import TASKS
from cclm.config.files import load_config

NAMES = (
    "pretrain", "itr_multi30k", "itr_coco", "xvnli", "gqa", "nlvr", "nlvr_domain", "xflickrco", "wit", "finetune",
    "evaluate",
)  # fmt: skip
TASK_NAMES = NAMES[1:9]
PLAIN_TASKS = [name for name in TASK_NAMES if name != "nlvr_domain"]


class TestValidation(ComponentTestCase):
    def test_torchx_accepts_them(self) -> None:
        for name in NAMES:
            self.validate(torchx_components, name)


def component(name: str) -> Callable[..., AppDef]:
    return getattr(torchx_components, name)


def app_of(name: str, *arguments: str) -> AppDef:
    """What `torchx run cclm.NAME ARGUMENTS` makes."""
    return materialize_appdef(component(name), list(arguments))


def line_of(app: AppDef) -> str:
    (role,) = app.roles
    assert (role.entrypoint, role.args[0]) == ("bash", "-c")
    return role.args[1]


def launched(app: AppDef) -> list[str]:
    """The command of cclm that a job runs on its nodes. It is one that cclm itself can read."""
    words = shlex.split(line_of(app))
    command = words[words.index("--") + 1 :]
    parse(command)
    return command


def options(app: AppDef) -> dict[str, str]:
    """What `cclm launch` makes of the words before the command."""
    words = shlex.split(line_of(app))
    assert words[:3] == ["exec", "cclm", "launch"]
    parser = argparse.ArgumentParser()
    launch.add_parser(parser.add_subparsers())
    return vars(parser.parse_args(words[2:]))


def refused(name: str, *arguments: str) -> str:
    with pytest.raises(ComponentValidationException) as caught:
        app_of(name, *arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_pretrain() -> None:
    app = app_of(
        "pretrain", "--config", "my run.yaml", "-j", "2x8", "--gpu", "8", "--env", "NCCL_DEBUG=INFO,A=b,c", "a.b=1",
        "c=[2, 3]",
    )  # fmt: skip
    assert launched(app) == ["pretrain", "--resume", "auto", "my run.yaml", "a.b=1", "c=[2, 3]"]
    assert [options(app)[name] for name in ("nnodes", "nproc_per_node", "max_restarts")] == ["2", "8", "3"]
    role = app.roles[0]
    assert (app.name, role.num_replicas, role.min_replicas, role.resource.gpu) == ("cclm-pretrain", 2, 2, 8)
    assert role.env == {"NCCL_DEBUG": "INFO", "A": "b,c"}


def test_every_argument_of_pretrain_reaches_the_command_line() -> None:
    app = app_of(
        "pretrain", "--checkpoint", "s3://b/c.th", "--output", "s3://b/run", "--output_hdfs", "hdfs://nn/run", "--seed",
        "7", "--resume", "never", "--metrics_port", "9400", "--max_restarts", "0", "--rdzv_port", "1234", "-j", "1:2x1",
        "--name", "run-7", "--image", "r/cclm:1", "--mounts", "type=bind,src=/a,dst=/b,readonly", "--memMB", "10",
        "--preflight", "False",
    )  # fmt: skip
    assert launched(app) == [
        "pretrain", "--resume", "never", "configs/Pretrain_4m.yaml", "output_dir=s3://b/run",
        "output_hdfs=hdfs://nn/run", "seed=7", "model.weights=s3://b/c.th",
    ]  # fmt: skip
    launch_options = options(app)
    assert (launch_options["metrics_port"], launch_options["max_restarts"]) == ("9400", "0")
    assert launch_options["no_preflight"] and not options(app_of("pretrain"))["no_preflight"]
    assert (app.name, app.roles[0].image, app.roles[0].resource.memMB) == ("run-7", "r/cclm:1", 10)
    (mount,) = app.roles[0].mounts
    assert (mount.src_path, mount.dst_path, mount.read_only) == ("/a", "/b", True)


@pytest.mark.parametrize("name", PLAIN_TASKS)
def test_each_task_runs_its_published_config(name: str) -> None:
    command = launched(app_of(name, "--checkpoint", "s3://b/4m", "--output_hdfs", "hdfs://nn/run"))
    config = f"configs/cclm-base-ft/{TASKS[name].config}"
    assert command == [
        "finetune", "--checkpoint", "s3://b/4m", "--resume", "auto", config, "output_dir=hdfs://nn/run",
    ]  # fmt: skip
    assert load_config(Path(config), command[6:], processes=1).output_dir == "hdfs://nn/run"


@pytest.mark.parametrize("name", [name for name in PLAIN_TASKS if TASKS[name].few_shot])
def test_few_shot_has_a_config_of_its_own(name: str) -> None:
    command = launched(app_of(name, "--checkpoint", "c", "--fewshot", "ar,48", "--gmt", "True", "--output", "o"))
    assert command == [
        "finetune", "--checkpoint", "c", "--fewshot", "ar,48", "--gmt", "--resume", "auto",
        f"configs/cclm-base-ft/{TASKS[name].few_shot}", "output_dir=o",
    ]  # fmt: skip


def test_text_assignment_and_fine_tuning_are_one_job() -> None:
    app = app_of(
        "nlvr_domain", "--checkpoint", "c", "--output", "o", "--seed", "1", "--gmt", "true", "a=1", "domain.b=2"
    )
    assert launched(app) == [
        "run", "--dist", "1", "--task", "nlvr_domain", "--output_dir", "o", "--seed", "1", "--checkpoint", "c", "--gmt",
        "--resume", "auto", "a=1", "domain.b=2",
    ]  # fmt: skip


def test_both_parts_of_a_job_save_where_it_says() -> None:
    def folders(*arguments: str) -> list[str]:
        command = launched(app_of("nlvr_domain", "--checkpoint", "c", *arguments))
        return command[command.index("--output_dir") : command.index("--checkpoint")]

    assert folders() == ["--output_dir", "output/nlvr_domain"]
    assert folders("--output_hdfs", "s3://b/x") == ["--output_dir", "s3://b/x"]
    both = ("--output", "/data/x", "--output_hdfs", "s3://b/x")
    assert folders(*both) == ["--output_dir", "/data/x", "--output_hdfs", "s3://b/x"]


def test_finetune_and_evaluate_take_any_config() -> None:
    tuned = app_of("finetune", "--config", "x.yaml", "--checkpoint", "output/run", "--fewshot", "ar,48")
    assert launched(tuned) == [
        "finetune", "--checkpoint", "output/run", "--fewshot", "ar,48", "--resume", "auto", "x.yaml",
    ]  # fmt: skip
    app = app_of("evaluate", "--config", "x.yaml", "--checkpoint", "s3://b/run", "-j", "1:2x8", "a=1")
    assert launched(app) == ["evaluate", "--checkpoint", "s3://b/run", "x.yaml", "a=1"]
    assert options(app)["nnodes"] == "1:2"


def test_one_node_needs_no_fixed_port() -> None:
    assert options(app_of("pretrain"))["rdzv_endpoint"] == "localhost:0"


def test_several_nodes_meet_where_the_operator_says_or_else_the_scheduler() -> None:
    line = line_of(app_of("pretrain", "-j", "2x1"))
    assert '--rdzv-endpoint "$${PET_RDZV_ENDPOINT:-$${${rank0_env}:-localhost}:29500}"' in line


def test_python_gives_values_and_torchx_gives_texts() -> None:
    values = torchx_components.xvnli("a=1", checkpoint="c", gmt=True, seed=3, env={"A": "1"}, cpu=4, j="2x1")
    texts = app_of(
        "xvnli", "--checkpoint", "c", "--gmt", "True", "--seed", "3", "--env", "A=1", "--cpu", "4", "-j", "2x1", "a=1"
    )
    assert values == texts


def test_image_is_of_this_version_or_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CCLM_IMAGE", raising=False)
    assert app_of("pretrain").roles[0].image == "cclm:0.1.0"
    monkeypatch.setenv("CCLM_IMAGE", "registry/cclm:7")
    assert app_of("pretrain").roles[0].image == "registry/cclm:7"
    assert app_of("pretrain", "--image", "other:1").roles[0].image == "other:1"


@pytest.mark.parametrize(
    ("arguments", "processes"),
    [((), 1), (("--gpu", "4"), 4), (("-h", "a100x8_p4d"), 8), (("-h", "a100x8_p4d", "-j", "1:2"), 8), (("-j", "2"), 1)],
)
def test_without_a_number_of_processes_each_gpu_has_one(arguments: tuple[str, ...], processes: int) -> None:
    assert f"--nproc-per-node {processes} " in line_of(app_of("pretrain", *arguments))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("-j 4:2x8", "-j 4:2x8: the least nodes come first, as 2:4x8"),
        ("-j 4:2", "-j 4:2: the least nodes come first, as 2:4"),
        ("-j 0", "-j 0: nodes and processes are counted from 1"),
        ("-j 0x1", "-j 0x1: nodes and processes are counted from 1"),
        ("-j 2x", "-j 2x: give nodes x processes on each, as 2x8"),
        ("-j 1x4 --gpu 2", "each node, which has 2 GPUs"),
        ("-h a100x8_p4", "-h a100x8_p4: there is no named resource of this name; did you mean a100x8_p4d?"),
        ("-h 8", "-h 8: there is no named resource of this name; there are a100x"),
        ("--gmt ja", "--gmt ja: give True or False"),
        ("--seed x", "--seed x: give a whole number from 0"),
        ("--metrics_port 70000", "--metrics_port 70000: give a whole number from 0 to 65535"),
        ("--cpu 0", "--cpu 0: give a whole number from 1"),
        ("--env A", "--env A: give variables as NAME=VALUE"),
        ("--mounts type=bind,dst=/x", "--mounts type=bind,dst=/x: src is missing; give type=bind"),
        ("--mounts type=tape,src=/x,dst=/x", "invalid mount type 'tape'"),
        ("--mounts where=/x", "unknown mount option where"),
        ("a=1 --seed 2", "--seed comes after a setting; give options first"),
        ("training.epochs", "training.epochs is neither an option nor a setting"),
        ("--checkpoint=", "--checkpoint is empty"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(arguments: str, sentence: str) -> None:
    assert sentence in refused("xvnli", "--checkpoint", "c", *arguments.split())


def test_a_task_without_few_shot_files_says_which_have_some() -> None:
    assert "wit has no few-shot files" in refused("wit", "--checkpoint", "c", "--fewshot", "ar,48")


def test_unknown_and_missing_options_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, sentence in (
        (["--checkpoint", "c", "--shots", "3"], "unrecognized arguments: --shots"),
        ([], "the following arguments are required: --checkpoint"),
    ):
        with pytest.raises(SystemExit) as caught:
            app_of("xvnli", *arguments)
        assert caught.value.code == 2
        assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("name", NAMES)
def test_help_teaches(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_args(component(name), ["--help"])
    text = capsys.readouterr().out
    assert f"cclm.{name} " in text.partition("examples:")[2]
    assert "(default: cclm-" in text
    for option in ("--checkpoint", "--output_hdfs", "-j", "-h", "--mounts"):
        assert option in text


@pytest.mark.parametrize("name", NAMES)
def test_examples_of_the_help_are_commands_that_torchx_takes(name: str) -> None:
    text = (component(name).__doc__ or "").partition("Args:")[0].replace("\\\n", " ")
    examples = [line.split() for line in text.splitlines() if line.strip().startswith("torchx run ")]
    assert examples
    for words in examples:
        start = words.index(next(word for word in words if word.startswith("cclm.")))
        launched(app_of(words[start].removeprefix("cclm."), *words[start + 1 :]))
