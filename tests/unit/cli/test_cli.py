"""The real command line: help without heavy imports, errors as one sentence without a traceback, exit codes."""

import dataclasses
import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tokenizers
import yaml

from cclm.cli import main as cli
from cclm.cli.describe import PARTS, count_parameters
from cclm.config.files import load_config
from cclm.errors import UserError, advice_on_missing

ROOT = Path(__file__).parents[3]
TOKENIZER = "model.text.tokenizer"  # a folder with one is made by the test


def cclm(*args: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "cclm", *args]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False)


def test_help_names_every_command_and_imports_nothing_heavy() -> None:
    script = "import sys, cclm.cli.main as m\ntry: m.run(['--help'])\nexcept SystemExit: print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert all(f"    {name} " in done.stdout for name in cli.COMMANDS)
    assert "examples:" in done.stdout
    assert not {"'torch'", "'pydantic'", "'yaml'"} & set(done.stdout.split("[")[-1].rstrip("]\n").split(", "))


def test_version_and_module_call() -> None:
    done = cclm("--version")
    assert done.returncode == 0 and done.stdout.startswith("cclm ")


def test_no_command_shows_help_and_fails() -> None:
    done = cclm()
    assert done.returncode == 2 and "usage: cclm" in done.stdout


def test_a_file_of_weights_is_nothing_to_describe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.th").write_bytes(b"\x80\x02")
    assert cli.run(["describe", str(tmp_path / "x.th")]) == 2
    err = capsys.readouterr().err
    assert f"{tmp_path}/x.th is a file of weights, and cclm describe reads configs" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["pretrian"], "'pretrian' is not a command; did you mean pretrain?"),
        (["describe", "nope.yaml"], "no config file nope.yaml"),
        (["describe", "nowhere"], "no file or folder nowhere; name a config file, a checkpoint's folder, or a run's"),
        (["describe", "nowhere", "--verify"], "no file or folder nowhere; name a config file, a checkpoint's"),
        (["describe", "README.md", "--verify"], "README.md is a file; name that"),
        (["describe", "a" * 300], f"{'a' * 300}: File name too long; correct the path or its permissions"),
        (["describe", "configs"], "there is no checkpoint in configs (manifest.json is missing); name a checkpoint's"),
        (["describe", "configs/demo/pretrain.yaml", "optimizer.lrr=1"], "did you mean optimizer.lr?"),
        (["describe", "configs/demo/pretrain.yaml", "training.epochs=x"], "training.epochs must be a whole number"),
        (["describe", "configs/demo/pretrain.yaml", "schedule.warmup_steps=5"], "not both"),
    ],
)
def test_user_errors_are_one_sentence_and_exit_2(args: list[str], sentence: str) -> None:
    done = cclm(*args)
    assert done.returncode == 2
    assert done.stderr.startswith("cclm: error: ") and done.stderr.count("\n") == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            "pretrain",
            "cclm pretrain: error: the following arguments are required: config; for example: cclm pretrain c",
        ),
        (
            "evaluate c.yaml",
            "required: --checkpoint; for example: cclm evaluate configs/demo/pretrain.yaml --checkpoint",
        ),
        ("describe", "required: config; for example: cclm describe configs/"),
        ("data index", "required: URL; for example: cclm data index data/"),
        ("launch -- finetune", "required: config; for example: cclm finetune configs/"),
        (
            "finetune c.yaml --checkpont x",
            "cclm finetune: error: unrecognized arguments: --checkpont x; did you mean --che",
        ),
        ("data check --processs=2 c.yaml", "did you mean --processes?"),
        ("launch --nproc-per-nod 2 -- pretrain c.yaml", "did you mean --nproc-per-node?"),
        ("launch -- pretrain c.yaml --resme never", "did you mean --resume?"),
        ("run --dist 1 --output_dir x --task xnli", "; did you mean xvnli?"),
        ("pretrain c.yaml --output_dir x", "settings of a config are given as key=value without dashes"),
        ("data audit a --deep", "unrecognized arguments: --deep; see cclm data audit --help"),
        ("demo a b", "unrecognized arguments: b; see cclm demo --help"),
    ],
)
def test_argparse_errors_say_what_to_type(words: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.run(words.split())
    printed = capsys.readouterr().err
    assert caught.value.code == 2 and sentence in printed.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "missing"),
    [
        ([], "the tokenizer folder demo_world/data/xlm-roberta-demo"),
        ([f"{TOKENIZER}=tokenizer"], "evaluation.files.en: demo_world/data/heldout/en.json"),
        ([f"{TOKENIZER}=tokenizer", "evaluation=null"], ".files: demo_world/data/pretrain/"),
    ],
)
def test_who_has_no_demo_world_is_told_how_to_draw_it(tmp_path: Path, words: list[str], missing: str) -> None:
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    built = tokenizers.Tokenizer(tokenizers.models.Unigram([(piece, 0.0) for piece in [*special, "a"]], unk_id=3))
    built.add_special_tokens(special)
    (tmp_path / "tokenizer").mkdir()
    built.save(str(tmp_path / "tokenizer" / "tokenizer.json"))
    done = cclm("pretrain", str(ROOT / "configs/demo/pretrain.yaml"), *words, cwd=tmp_path)
    assert done.returncode == 2 and missing in done.stderr and done.stderr.count("\n") == 1
    assert done.stderr.endswith("does not exist; draw the demo world with: cclm demo demo_world\n")


def test_what_a_demo_world_lacks_that_is_there_is_not_drawn_again(tmp_path: Path) -> None:
    there = tmp_path / "demo_world"
    assert advice_on_missing(f"{there}/a/b", "look") == f"draw the demo world with: cclm demo {there}"
    there.mkdir()
    places = (f"{there}/a/b", "demo_world_2/a", "s3://bucket/demo_world/a")
    assert [advice_on_missing(place, "look") for place in places] == ["look"] * 3


def test_a_reader_that_leaves_is_no_error() -> None:
    command = f"{sys.executable} -m cclm describe configs/Pretrain_3m.yaml | head -1; echo ${{PIPESTATUS[0]}} >&2"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout == "task: pretrain\n"
    assert done.stderr in ("141\n", "0\n")  # 0 when head read it all before leaving


def run_with(monkeypatch: pytest.MonkeyPatch, error: BaseException | None, result: int | None = None) -> int:
    def func(_args: object) -> int | None:
        if error is not None:
            raise error
        return result

    class Module:
        @staticmethod
        def add_parser(subparsers) -> None:
            subparsers.add_parser("demo").set_defaults(func=func)

    monkeypatch.setattr(cli.importlib, "import_module", lambda _: Module)
    return cli.run(["demo"])


def test_exit_codes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_with(monkeypatch, None) == 0
    assert run_with(monkeypatch, None, 1) == 1
    assert run_with(monkeypatch, UserError("all is lost")) == 2
    assert capsys.readouterr().err == "cclm: error: all is lost\n"
    assert run_with(monkeypatch, KeyboardInterrupt()) == 130
    with pytest.raises(ZeroDivisionError):  # a bug keeps its traceback
        run_with(monkeypatch, ZeroDivisionError())
    with pytest.raises(FileNotFoundError):
        run_with(monkeypatch, FileNotFoundError(errno.ENOENT, "No such file or directory", "gone"))


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(errno.ENAMETOOLONG, "File name too long", "a" * 9), "aaaaaaaaa: File name too long; correct the path"),
        (OSError(errno.EACCES, "Permission denied", "/data/x"), "/data/x: Permission denied; correct the path or its"),
        (OSError(errno.ENOSPC, "No space left on device", "x"), "x: No space left on device; make room"),
        (OSError(errno.ENOSPC, "No space left on device"), "what is being written: No space left on device; make room"),
    ],
)
def test_a_file_that_the_system_refuses_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: OSError, sentence: str
) -> None:
    assert run_with(monkeypatch, error) == 2
    assert capsys.readouterr().err.startswith(f"cclm: error: {sentence}")


def test_output_that_does_not_fit_is_one_sentence() -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "cclm", "describe", "configs/demo/pretrain.yaml"]
        done = subprocess.run(
            command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, timeout=300, check=False
        )
    assert (done.returncode, done.stderr) == (
        2, "cclm: error: what is being written: No space left on device; make room\n"
    )  # fmt: skip


def test_main_exits_with_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "run", lambda argv: len(argv))
    with pytest.raises(SystemExit) as caught:
        cli.main(["a", "b", "c"])
    assert caught.value.code == 3


def test_describe_prints_a_config_that_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demo = ROOT / "configs/demo/pretrain.yaml"
    assert cli.run(["describe", str(demo), "seed=5"]) == 0
    printed = capsys.readouterr().out
    path = tmp_path / "printed.yaml"
    path.write_text(printed)
    assert load_config(path) == load_config(demo, ["seed=5"])
    assert "# parameters" in printed and all(part in printed for part in PARTS)


def test_describe_multiplies_published_batches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = json.loads((ROOT / "tests/data/published_settings.json").read_text())
    path = tmp_path / "published.yaml"
    path.write_text(yaml.safe_dump(settings["configs/Pretrain_3m.yaml"]))
    (tmp_path / "configs").mkdir()
    vision = "configs/config_swinB_224.json"
    (tmp_path / vision).write_text(json.dumps(settings[vision]))
    assert cli.run(["describe", str(path), "--processes", "4"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["data"]["images"]["batch_size"] == 512


def test_parameter_counts_of_a_small_model_by_hand() -> None:
    base = ROOT / "configs/model/laptop.yaml"
    model = load_config(base, ["data.images.files=[a]", "data.images.batch_size=8"]).model
    counts = count_parameters(model)
    width = model.text.hidden_size
    assert counts["matching head"] == width * 2 * width + 2 * width + 2 * 2 * width + 2 * width * 2 + 2
    assert counts["box head"] - counts["matching head"] == 2 * (2 * width + 1)
    assert counts["shared space"] == 2 * (width * model.embed_dim + model.embed_dim) + 1
    # A fusion layer has a second attention (four projections) and its LayerNorm.
    inner = model.text.intermediate_size
    attention = 4 * (width * width + width) + 2 * width
    layer = attention + 2 * width * inner + inner + width + 2 * width
    assert counts["fusion encoder"] == (model.text.num_layers - model.text.num_text_layers) * (layer + attention)


def test_demo_options_are_its_sizes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from cclm.cli.demo import SIZES
    from cclm.demo import world

    made = {}
    monkeypatch.setattr(world, "make_demo_world", lambda out, **rest: made.update(out=out, **rest) or {"dots": 12})
    assert cli.run(["demo", "there", "--tiny", "--seed", "3", "--regions", "17"]) == 0
    assert (made["out"], made["seed"]) == (Path("there"), 3)
    assert made["size"] == dataclasses.replace(world.DemoSize.TINY, regions=17)
    assert "12 dots" in capsys.readouterr().out
    assert set(SIZES) == {field.name for field in dataclasses.fields(world.DemoSize)}


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.run([command, "--help"])
    printed = capsys.readouterr().out
    assert caught.value.code == 0
    assert f"usage: cclm {command}" in printed and "examples:" in printed
