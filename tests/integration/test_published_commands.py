"""The commands of the published README, as written there, with `python3 run.py` replaced by `cclm run`.

They run in a small demo world made by `cclm demo --as-published`, with a model of two layers a stack and one step of
training (`--epoch 1 training.max_steps=1` is added), in this process.
"""

import contextlib
import io
import json
import os
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from cclm.cli import main
from cclm.demo.world import DemoSize, make_demo_world

pytestmark = pytest.mark.slow

PRETRAIN = (
    'cclm run --task "pretrain_cclm_3m" --dist "1" --output_dir "output/"',
    'cclm run --task "pretrain_cclm_4m" --dist "1" --output_dir "output/"',
)
_FT = "configs/cclm-base-ft/Retrieval_{}_{}_ft.yaml"
_LIST = (
    "cclm run --dist 1 --task itr_{} --config {} --output_dir output/path/to/save --bs 128 --seed 42 --epoch 10 "
    "--checkpoint pretrained_model.th"
)
RETRIEVAL = {
    **{
        f"multi30k {lang}": _LIST.format("multi30k", _FT.format("multi30k", lang))
        for lang in ("en", "cs", "de", "fr", "all")
    },
    **{f"coco {lang}": _LIST.format("coco", _FT.format("coco", lang)) for lang in ("en", "ja", "zh", "all")},
}
_ZERO = (
    "cclm run --dist 1 --task {} --output_dir output/path/to/save {}--checkpoint pretrained_model.th --bs 128 --seed 42"
)
_HDFS = "--output_hdfs hdfs://path/to/save "
ZERO_SHOT = {
    "xvnli": _ZERO.format("xvnli", _HDFS),
    "gqa": _ZERO.format("gqa", ""),
    "nlvr": _ZERO.format("nlvr", ""),
    "xflickrco": _ZERO.format("xflickrco", _HDFS),
    "wit": f"cclm run --dist 1 --task wit --output_dir output/path/to/save {_HDFS}--bs 128 --seed 42 "
    "--checkpoint pretrained_model.th",
}
_FEW = (
    "cclm run --dist 1 --task {} --output_dir output/path/to/save {}--checkpoint en_finetuned_model.th --bs 128 "
    "--seed 42 --fewshot {} --lr 1e-6"
)
FEW_SHOT = {
    "xvnli": (_HDFS, "{},48", ("ar", "es", "fr", "ru")),
    "gqa": ("", "{}", ("bn", "de", "id", "ko", "pt", "ru", "zh")),
    "nlvr": ("", "{}", ("id", "tr", "zh")),
    "xflickrco": (_HDFS, "{},100", ("de", "es", "id", "ja", "ru", "tr", "zh")),
}

LANGUAGES = {
    "xvnli": {"ar", "en", "es", "fr", "ru"},
    "gqa": {"bn", "de", "en", "id", "ko", "pt", "ru", "zh"},
    "nlvr": {"en", "id", "sw", "ta", "tr", "zh"},
    "xflickrco": {"de", "en", "es", "id", "ja", "ru", "tr", "zh"},
    "wit": {"ar", "bg", "da", "el", "en", "et", "id", "ja", "ko", "tr", "vi"},
    "multi30k": {"en", "de", "fr", "cs"},
    "coco": {"en", "ja", "zh"},
}
SHORT = "--epoch 1 training.max_steps=1"


def cclm(command: str, more: str = "") -> None:
    """Run one line as a shell would take it apart. Nobody listens at hdfs://path: it becomes a folder."""
    words = shlex.split(f"{command} {more}".replace("hdfs://path/to/save", f"file://{Path.cwd()}/hdfs"))
    assert words.pop(0) == "cclm"
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):
        code = main.run(words)
    assert code == 0, f"{command}\n{errors.getvalue()}"


def results(split: str = "test") -> dict:
    """What the last command wrote."""
    found = json.loads(Path("output/path/to/save/results.json").read_text())
    assert list(Path("output/path/to/save/predictions").glob(f"{split}-*.jsonl"))
    return found[split]


def in_languages(measured: dict) -> set[str]:
    return set(measured["languages"])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the published README wants it, with an even smaller model, and one pre-trained for two steps."""
    root = tmp_path_factory.mktemp("published") / "world"
    make_demo_world(root, size=DemoSize.TINY, as_published=True, progress=False)
    for path in (root / "configs").rglob("*.yaml"):
        settings = yaml.safe_load(path.read_text())
        settings["model"]["vision"] |= {"embed_dim": 16, "depths": [1, 1], "num_heads": [1, 2]}
        settings["model"]["text"] |= {"hidden_size": 32, "num_heads": 2, "intermediate_size": 64}
        settings["model"]["text"] |= {"num_layers": 2, "num_text_layers": 1}
        path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return root


@pytest.fixture(scope="module")
def pretrained(world: Path) -> Path:
    """The folder, with `pretrained_model.th` in it."""
    with _inside(world):
        cclm(PRETRAIN[0], "training.max_steps=2")
        cclm("cclm convert output/ pretrained_model.th")
        shutil.rmtree("output")
    return world


@pytest.fixture
def here(pretrained: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(pretrained)
    yield pretrained
    _clear()


def _clear() -> None:
    """Commands that name the same folders follow each other."""
    for left in ("output", "hdfs"):
        shutil.rmtree(left, ignore_errors=True)


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def test_pretraining_with_regions(here: Path) -> None:
    cclm(PRETRAIN[1], "training.max_steps=2")
    assert list(Path("output").glob("step-*"))


@pytest.mark.parametrize("name", RETRIEVAL)
def test_retrieval(here: Path, name: str) -> None:
    data, language = name.split()
    cclm(RETRIEVAL[name], "training.max_steps=1")
    assert in_languages(results()) == (LANGUAGES[data] if language in ("en", "all") else {language})


@pytest.mark.parametrize("task", ZERO_SHOT)
def test_zero_shot_then_translate_test_then_few_shot(here: Path, task: str) -> None:
    cclm(ZERO_SHOT[task], SHORT)
    assert in_languages(results()) == LANGUAGES[task]
    model = here / "en_finetuned_model.th"  # a run's folder serves as well as a file
    shutil.rmtree(model, ignore_errors=True)
    shutil.move("output/path/to/save", model)
    if task != "gqa":  # whose tests have no translations
        _clear()
        cclm(ZERO_SHOT[task].replace("pretrained", "en_finetuned"), "--evaluate --gmt")
        assert in_languages(results("translated_test")) == LANGUAGES[task] - {"en"}
    if task in FEW_SHOT:
        hdfs, shots, languages = FEW_SHOT[task]
        for language in languages:
            _clear()
            cclm(_FEW.format(task, hdfs, shots.format(language)), SHORT)
            assert in_languages(results()) == {language}


def test_nlvr_domain(here: Path) -> None:
    command = ZERO_SHOT["nlvr"].replace("--task nlvr", "--task nlvr_domain")
    cclm(command, f"{SHORT} domain.training.max_steps=1")
    assert Path("output/path/to/save/nlvr_ft/results.json").is_file()


def test_missing_images_are_named_or_left_out(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = json.loads(Path("iglue/datasets/XVNLI/annotations/en/train.jsonl").read_text().splitlines()[0])
    image = Path(f"images/flickr30k-images/{record['Flikr30kID']}.jpg")
    kept = image.read_bytes()
    image.unlink()
    try:
        words = shlex.split(ZERO_SHOT["xvnli"].replace(_HDFS, "").removeprefix("cclm ") + f" {SHORT}")
        assert main.run(words) == 2
        assert f"train.jsonl:1: the image {image} does not exist (1 of 6 images are missing)" in capsys.readouterr().err
        assert [path for path in Path("output").rglob("*") if path.is_file()] == []
        for more in (["--missing-images", "skip"], ["data.missing_images=skip", "--resume", "never"]):
            assert main.run([*words, *more]) == 0
            assert "left out 3 for missing image" in capsys.readouterr().out
    finally:
        image.write_bytes(kept)
