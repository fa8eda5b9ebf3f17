"""Published launcher flags -> our commands; GPUs of --dist."""

import os
from pathlib import Path

import pytest

from cclm.cli import main
from cclm.cli.run import _local_config, launcher_of
from cclm.cli.run_commands import TASKS, Flags, commands_of

ROOT = Path(__file__).parents[3]
FT = "configs/cclm-base-ft/"


def commands(*words: str) -> list[list[str]]:
    args = main.parse(["run", "--dist", "1", "--output_dir", "out", *words])
    return commands_of(Flags(**{name: getattr(args, name) for name in Flags.__dataclass_fields__}))


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main.run(["run", "--output_dir", "out", *words]) == 2
    return capsys.readouterr().err


@pytest.fixture(autouse=True)
def _in_the_clone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_fine_tuning_flags() -> None:
    flags = "--task xvnli --output_hdfs hdfs://a/b --checkpoint m.th --bs 128 --seed 7 --fewshot ar,48 --lr 1e-6 --gmt"
    [command] = commands(*flags.split(), "--evaluate", "--epoch", "3", "training.precision=float32")
    assert command == [
        "finetune", f"{FT}XVNLI_fewshot.yaml", "--checkpoint", "m.th", "--fewshot", "ar,48", "--gmt", "--evaluate",
        "output_dir=out", "output_hdfs=hdfs://a/b", "seed=7", "training.epochs=3", "training.max_steps=null",
        "optimizer.lr=1e-06", "training.batch_size=128", "training.precision=float32",
    ]  # fmt: skip
    [plain] = commands("--task", "gqa")
    assert plain == ["finetune", f"{FT}GQA.yaml", "output_dir=out"]


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_its_configs(task: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert all((ROOT / command[1]).is_file() for command in commands("--task", task))
    if TASKS[task].few_shot:
        assert commands("--task", task, "--fewshot", "id,1")[-1][1].endswith("_fewshot.yaml")
    monkeypatch.chdir(tmp_path)  # configs of the working directory go first, else those of the clone are found
    assert all(Path(command[1]).is_file() for command in commands("--task", task))
    (tmp_path / "configs/mine").mkdir(parents=True)
    (tmp_path / "configs/mine/WIT.yaml").write_text("")
    assert commands("--task", "wit", "--model", "mine")[0][1] == "configs/mine/WIT.yaml"


def test_pretraining_flags() -> None:
    [command] = commands("--task", "pretrain_cclm_4m", "--epoch", "2", "--checkpoint", "a.th", "--resume", "never")
    assert command == [
        "pretrain", "configs/Pretrain_4m.yaml", "--resume", "never", "output_dir=out", "training.epochs=2",
        "training.max_steps=null", "model.weights=a.th",
    ]  # fmt: skip


def test_nlvr_domain_is_two_commands() -> None:
    flags = "--task nlvr_domain --checkpoint m.th --bs 64 --epoch 4 --output_hdfs s3://b/x domain.training.max_steps=9"
    first, second = commands(*flags.split(), "training.num_workers=0")
    assert first == [
        "finetune", f"{FT}NLVR_multilingual_pretrain_O1.yaml", "--checkpoint", "m.th", "output_dir=out",
        "output_hdfs=s3://b/x", "training.max_steps=9",
    ]  # fmt: skip
    # Every machine reaches the second folder, but only one has the first.
    assert second[:4] == ["finetune", f"{FT}NLVR.yaml", "--checkpoint", "s3://b/x"]
    assert commands("--task", "nlvr_domain")[1][2:4] == ["--checkpoint", "out"]
    assert {"output_dir=out/nlvr_ft", "output_hdfs=s3://b/x/nlvr_ft", "training.batch_size=64"} < set(second)
    assert second[-1] == "training.num_workers=0"
    [only] = commands("--task", "nlvr_domain", "--load_ckpt_from", "earlier.th")
    assert only[:4] == ["finetune", f"{FT}NLVR.yaml", "--checkpoint", "earlier.th"]
    [test] = commands("--task", "nlvr_domain", "--evaluate")
    assert test[2:5] == ["--checkpoint", "out/nlvr_ft", "--evaluate"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--dist 1 --task wit --fewshot da", "--fewshot: wit has no few-shot files; those with some: xvnli, gqa, nlvr"),
        ("--dist 1 --task wit --load_ckpt_from a", "--load_ckpt_from is for task nlvr_domain"),
        ("--dist 1 --task wit --model mine", "--model mine: there is no config file configs/mine/WIT.yaml"),
        ("--dist 1 --task nlvr_domain --config a", "--config: nlvr_domain has two configs"),
        ("--dist 1 --task wit domain.seed=3", "domain.seed=3: domain.* are settings of nlvr_domain's first half"),
        ("--dist 1 --task pretrain_cclm_3m --gmt", "--gmt is for fine-tuning, not for pretrain_cclm_3m"),
        ("--dist 1 --task pretrain_cclm_3m --bs 8", "--bs is for fine-tuning"),
        ("--dist 1 --task wit --config file:///no/x.yaml", "--config file:///no/x.yaml: there is no such file"),
        ("--dist f5 --task wit", "--dist f5: give 1, all, f4, l4, or gpu and a number"),
        ("--dist gpu --task wit", "--dist gpu: give 1, all, f4, l4, or gpu and a number"),
    ],
)
def test_flags_that_do_not_go_together(capsys: pytest.CaptureFixture[str], words: str, sentence: str) -> None:
    assert sentence in refusal(capsys, *words.split())


def test_dist_chooses_gpus_and_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def with_gpus(number: int, dist: str, visible: str = "", **more: str) -> tuple[list[str], str]:
        with monkeypatch.context() as patch:
            patch.setattr(torch.cuda, "device_count", lambda: number)
            for name, value in {"CUDA_VISIBLE_DEVICES": visible, **more}.items():
                patch.setenv(name, value)
            return launcher_of(dist), os.environ["CUDA_VISIBLE_DEVICES"]

    assert with_gpus(0, "1") == ([], "") and with_gpus(0, "all") == ([], "") and with_gpus(1, "1") == ([], "")
    assert with_gpus(8, "1") == (["launch", "--nproc-per-node", "8", "--"], "")
    assert with_gpus(8, "f4") == (["launch", "--nproc-per-node", "4", "--"], "0,1,2,3")
    assert with_gpus(8, "l4") == (["launch", "--nproc-per-node", "4", "--"], "4,5,6,7")
    assert with_gpus(8, "gpu5") == ([], "5")
    assert with_gpus(4, "gpu1", visible="2,3,6,7") == ([], "3")
    assert with_gpus(8, "all", PET_NNODES="2") == (["launch", "--nproc-per-node", "8", "--"], "")
    assert with_gpus(8, "all", PET_NNODES="2", PET_NPROC_PER_NODE="gpu") == (["launch", "--"], "")
    assert with_gpus(8, "1", LOCAL_RANK="3") == ([], "")


@pytest.mark.parametrize(
    ("dist", "gpus", "words"),
    [("f4", 0, "has none; --dist 1 runs on the CPU"), ("l4", 4, "has 4, numbered from 0"), ("gpu1", 1, "has 1")],
)
def test_gpus_that_are_not_there(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, dist: str, gpus: int, words: str
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert words in refusal(capsys, "--task", "wit", "--dist", dist)


def test_a_config_in_a_store_is_local_config(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("seed: 3\n")
    copy = _local_config(f"file://{tmp_path}/x.yaml", str(tmp_path / "copies"))
    assert Path(copy) == tmp_path / "copies/x.yaml" and Path(copy).read_text() == "seed: 3\n"
    assert _local_config("x.yaml", "") == "x.yaml" and _local_config("", "") == ""


@pytest.mark.parametrize(("flag", "value"), [("--bs", "0"), ("--lr", "-0.5"), ("--epoch", "-3")])
def test_numbers_that_train_nothing_are_refused(capsys: pytest.CaptureFixture[str], flag: str, value: str) -> None:
    words = ("--dist", "1", "--task", "xvnli", "--checkpoint", "a.th", flag, value)
    assert f"{flag} is {float(value):g}" in refusal(capsys, *words)
