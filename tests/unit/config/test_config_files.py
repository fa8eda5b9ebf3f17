"""Our config files: what is read, how files and overrides combine, and what a user is told when something is wrong."""

from pathlib import Path

import pytest

from cclm.config.files import load_config, to_yaml
from cclm.config.pretrain import PretrainConfig
from cclm.errors import UserError

ROOT = Path(__file__).parents[3]
CONFIGS = ROOT / "configs"
BASES = sorted((CONFIGS / "model").glob("*.yaml"))
PARTS = sorted(CONFIGS.glob("*/base/*.yaml"))
"""What runs of one folder have in common: no run by itself."""
RUNS = sorted(set(CONFIGS.rglob("*.yaml")) - set(BASES) - set(PARTS))

SMALL = """\
model:
  vision: {image_size: 64, embed_dim: 32, depths: [2, 2, 2], num_heads: [1, 2, 4], window_size: 4}
  text: {vocab_size: 99, hidden_size: 128, num_heads: 4, num_layers: 2, num_text_layers: 1, max_positions: 64}
data:
  images: {files: [a], batch_size: 8}
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


def complaint(path: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load_config(path, overrides)
    return str(caught.value)


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


# ------------------------------------------------------------------------------------------------- shipped files


def test_all_shipped_files_are_found() -> None:
    assert len(BASES) == 6
    assert len(RUNS) >= 3
    assert len(BASES) + len(PARTS) + len(RUNS) == len(list(CONFIGS.rglob("*.yaml")))


@pytest.mark.parametrize("path", RUNS, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_shipped_run_loads(path: Path) -> None:
    config = load_config(path)
    assert load_config(path) == config


@pytest.mark.parametrize("path", BASES, ids=lambda path: path.name)
def test_shipped_model_base_loads(path: Path) -> None:
    load_config(path, ["data.images.files=[a]", "data.images.batch_size=8"])


@pytest.mark.parametrize("path", [*RUNS, *BASES], ids=lambda path: str(path.relative_to(CONFIGS)))
def test_shipped_file_says_what_it_is_and_how_to_run_it(path: Path) -> None:
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    words = "\n".join(header)
    assert "base: " in words if path in BASES else "cclm " in words
    assert path in BASES or path.parent.name == "cclm-base-ft" or "Hardware" in words


def test_equal_texts_are_positives_in_the_demo_where_regions_are_learnt_and_nowhere_as_published() -> None:
    assert load_config(CONFIGS / "demo" / "fusion.yaml").objective.equal_texts_are_positives
    assert load_config(CONFIGS / "demo" / "english" / "fusion.yaml").objective.equal_texts_are_positives
    assert not load_config(CONFIGS / "Pretrain_4m.yaml").objective.equal_texts_are_positives


def test_demo_run_is_the_laptop_model_on_the_demo_world() -> None:
    config = load_config(CONFIGS / "demo" / "pretrain.yaml")
    assert isinstance(config, PretrainConfig)
    assert config.model.vision.image_size == 64
    assert config.data.images_mono and config.data.texts
    # Regions are learnt in the second part alone: see the file.
    assert config.data.regions is None
    second = load_config(CONFIGS / "demo" / "fusion.yaml")
    assert isinstance(second, PretrainConfig) and second.data.regions
    assert config.data.images_mono.caption_key == "desc"
    assert config.data.augment.horizontal_flip == 0 and config.data.augment.rand_augment_ops == 0
    assert config.evaluation and set(config.evaluation.files) == set("en de fr es id tr ru zh ja ar".split())


# --------------------------------------------------------------------------------------------- reading and merging


def test_numbers_with_an_exponent_and_no_point(small: Path) -> None:
    config = load_config(small, ["optimizer.lr=1e-4", "optimizer.eps=2E-9", "training.max_steps=1e3"])
    assert config.optimizer.lr == 1e-4
    assert config.optimizer.eps == 2e-9
    assert config.training.max_steps == 1000
    text = SMALL + "optimizer: {lr: 3e-5}\n"
    assert load_config(write(small.parent, "exponent.yaml", text)).optimizer.lr == 3e-5


def test_norwegian_is_a_language(small: Path) -> None:
    path = write(small.parent, "no.yaml", SMALL + "evaluation: {files: {no: heldout/no.json}}\n")
    assert load_config(path).evaluation.files == {"no": "heldout/no.json"}


def test_bases_merge_mappings_and_replace_the_rest(small: Path) -> None:
    folder = small.parent
    write(folder, "more.yaml", "data: {images: {files: [x, y], num_workers: 7}}\nseed: 5\n")
    top = write(folder, "top.yaml", "base: [small.yaml, more.yaml]\ndata: {images: {batch_size: 16}}\nseed: 6\n")
    config = load_config(top)
    assert config.data.images.files == ("x", "y")
    assert config.data.images.num_workers == 7
    assert config.data.images.batch_size == 16
    assert config.seed == 6


def test_base_is_relative_to_its_file_not_to_the_working_directory(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    top = write(inner, "top.yaml", "base: ../small.yaml\n")
    monkeypatch.chdir("/")
    assert load_config(top).model.vision.image_size == 64


def test_null_removes_a_block_and_an_override_adds_one(small: Path) -> None:
    source = "data.texts={files: [t], batch_size: 4}"
    assert load_config(small, [source]).data.texts.batch_size == 4
    assert load_config(small, [source, "data.texts=null"]).data.texts is None
    assert load_config(small, [source, "data.texts.probability=0.5"]).data.texts.probability == 0.5


@pytest.mark.parametrize("path", RUNS, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_printed_config_reads_back_equal(path: Path, tmp_path: Path) -> None:
    config = load_config(path, ["optimizer.eps=1e-12"])
    assert load_config(write(tmp_path, "printed.yaml", to_yaml(config))) == config


def test_text_that_looks_like_a_number_survives_printing(small: Path, tmp_path: Path) -> None:
    for name in ("1e-4", "yes", "2024-01-01", "null", "a: b", ""):
        config = load_config(small, [f"output_dir='{name}'"])
        assert load_config(write(tmp_path, "printed.yaml", to_yaml(config))).output_dir == name


# ----------------------------------------------------------------------------------------------------- bad input

SENTENCES = {
    # override -> what the message must say
    "optimzer.lr=1": "optimzer is not a known setting; did you mean optimizer?",
    "optimizer.lrr=1": "optimizer.lrr is not a known setting; did you mean optimizer.lr?",
    "data.images.batchsize=1": "data.images.batchsize is not a known setting; did you mean data.images.batch_size?",
    "lr=1e-4": "lr is not a known setting; did you mean optimizer.lr?",
    "zzz=1": "zzz is not a known setting; known here are task, seed",
    "training.epochs=many": 'training.epochs must be a whole number, but it is "many"',
    "training.epochs=1.5": "training.epochs must be a whole number, but it is 1.5",
    "optimizer.lr=true": "optimizer.lr must be a number, but it is true",
    "optimizer.lr=-1": "optimizer.lr must be greater than 0.0, but it is -1",
    "optimizer.lr=1e999": "optimizer.lr must be a finite number",
    "objective.use_tlm=maybe": 'objective.use_tlm must be true or false, but it is "maybe"',
    "data.images.files=x": 'data.images.files must be a list, but it is "x"',
    "data.images.files=[]": "data.images.files needs at least 1 entry, but has 0",
    "data.images.files=[1]": "data.images.files[0] must be text, but it is 1",
    "optimizer.betas=[0.9]": "optimizer.betas[1] is missing",
    "data.augment.horizontal_flip=2": "data.augment.horizontal_flip must be at most 1.0, but it is 2",
    "data.images=null": "data.images must be a block of `key: value` lines, but it is empty",
    "data.images.batch_size=null": "data.images.batch_size must be a whole number, but it is empty",
    "model.vision.architecture=swim": 'but it is "swim"; did you mean swin?',
    "task=pretrian": "which is no known task; did you mean pretrain?",
    "evaluation.image_root=x": "evaluation.files is missing; add it",
    # settings that contradict each other
    "schedule={warmup_steps: 5, warmup_fraction: 0.1}": "schedule: give warmup_steps or warmup_fraction, not both",
    "model.text.hidden_size=64": "cross-attention reads text.hidden_size = 64",
    "model.vision.image_size=70": "model.vision: image_size 70 is not a multiple of the total stride 16",
    "data.images.text.max_tokens=65": "data.images.text.max_tokens = 65 exceeds model.text.max_positions = 64",
    "objective.box_loss_on_whole_images=true": "objective.box_loss_on_whole_images needs data.regions",
}


@pytest.mark.parametrize("override", SENTENCES)
def test_a_wrong_setting_gives_a_sentence(small: Path, override: str) -> None:
    message = complaint(small, override)
    assert SENTENCES[override] in message
    assert "\n" not in message
    # Rules across blocks have no one place; everything else names the override.
    assert message.startswith("command line (" + override) or "small.yaml" in message


def test_a_wrong_line_in_a_file_is_named(small: Path) -> None:
    path = write(small.parent, "typo.yaml", SMALL + "training:\n  epochs: 3\n  epoch: 4\n")
    assert complaint(path) == f"{path}:8: training.epoch is not a known setting; did you mean training.epochs?"


def test_a_wrong_line_in_a_base_is_named_in_the_base(small: Path) -> None:
    base = write(small.parent, "base.yaml", SMALL + "seed: x\n")
    top = write(small.parent, "top.yaml", "base: base.yaml\noutput_dir: o\n")
    assert complaint(top).startswith(f"{base}:6: seed must be a whole number")
    fixed = write(small.parent, "fixed.yaml", "base: base.yaml\nseed: 3\n")
    assert load_config(fixed).seed == 3


def test_several_mistakes_are_told_at_once(small: Path) -> None:
    lines = complaint(small, "training.epoch=4", "seed=-1").splitlines()
    assert len(lines) == 2
    assert "training.epoch is not" in lines[0] and "seed must be at least 0" in lines[1]


def test_missing_setting(small: Path) -> None:
    path = write(small.parent, "part.yaml", SMALL.replace("embed_dim: 32, ", "").replace("image_size: 64, ", ""))
    assert complaint(path) == f"{path}:2: model.vision.image_size is missing; add it"


FILES = {
    "twice.yaml": ("seed: 1\ndata:\n  x: 1\n  x: 2\n", "twice.yaml:4: x is already given in line 3 of the same block"),
    "broken.yaml": ("seed: [1\nmodel: 3\n", "this is not YAML"),
    "list.yaml": ("- a\n", "expected `key: value` lines"),
    "empty.yaml": ("# nothing\n", "the file is empty"),
    "number.yaml": ("1: a\n", "number.yaml:1: a key must be text, and '1' is not"),
    "self.yaml": ("seed: &a [*a]\n", "self.yaml:1: an alias contains itself"),
    "object.yaml": ("seed: !!python/object/apply:os.getcwd []\n", "object.yaml:1: this is not YAML"),
    "loop.yaml": ("base: loop.yaml\n", "base files name each other in a circle (loop.yaml -> loop.yaml)"),
    "lost.yaml": ("seed: 1\nbase: smal.yaml\n", "lost.yaml:2: no base file"),
    "base.yaml": ("base: {a: 1}\n", "base.yaml:1: base must be a file or a list of files"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_cannot_be_used(small: Path, name: str) -> None:
    text, sentence = FILES[name]
    assert sentence in complaint(write(small.parent, name, text))


def test_a_longer_circle_of_bases(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "base: b.yaml\n")
    write(tmp_path, "b.yaml", "base: a.yaml\n")
    assert "(a.yaml -> b.yaml -> a.yaml)" in complaint(tmp_path / "a.yaml")


def test_a_file_that_is_not_there(small: Path) -> None:
    assert f"did you mean {small}?" in complaint(small.with_name("smal.yaml"))
    assert "is a folder" in complaint(small.parent)
    assert "no config file" in complaint(Path("/nowhere/at/all.yaml"))
    (small.parent / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    assert "cannot be read as text" in complaint(small.parent / "binary.yaml")


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("lr", "'lr' is not an override; write key.sub=value"),
        ("=3", "is not an override"),
        ("a..b=3", "is not an override"),
        ("seed.x=3", "seed is 4 and has no settings below it"),
        ("seed=[1", "this is not YAML"),
    ],
)
def test_a_wrong_override(small: Path, override: str, sentence: str) -> None:
    path = write(small.parent, "seeded.yaml", SMALL + "seed: 4\n")
    assert sentence in complaint(path, override)
