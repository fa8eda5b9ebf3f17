"""The released files, written out as they are, must load; whatever they hold must be understood or refused."""

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cclm.config.files import load_config
from cclm.config.finetune import (
    AnsweringConfig,
    ClassificationConfig,
    FinetuneConfig,
    ReasoningConfig,
    RetrievalConfig,
    TextAssignmentConfig,
)
from cclm.config.pretrain import PretrainConfig
from cclm.config.published_model import published_model
from cclm.errors import UserError

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests" / "golden"
SETTINGS: dict[str, dict[str, Any]] = json.loads((ROOT / "tests/data/published_settings.json").read_text())
YAMLS = [name for name in SETTINGS if name.endswith(".yaml")]
FT = "configs/cclm-base-ft/"

TASKS = {
    "GQA": AnsweringConfig,
    "NLVR_multilingual": TextAssignmentConfig,
    "NLVR": ReasoningConfig,
    "Retrieval": RetrievalConfig,
    "WIT": RetrievalConfig,
    "XVNLI": ClassificationConfig,
    "xFlickrCO": RetrievalConfig,
    "Pretrain": PretrainConfig,
}


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all released files, numbers like `1e-4` written as they are there: without a point."""
    folder = tmp_path_factory.mktemp("released")
    for name, values in SETTINGS.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values) if name.endswith(".json") else yaml.safe_dump(values, sort_keys=False))
    return folder


@pytest.fixture
def variant(released: Path) -> Callable[..., Path]:
    """Write a released file with something changed."""

    def write(name: str, change: Callable[[dict[str, Any]], Any]) -> Path:
        values = copy.deepcopy(SETTINGS[name])
        change(values)
        path = (released / name).with_name("variant.yaml")
        path.write_text(yaml.safe_dump(values))
        return path

    return write


def load(released: Path, name: str, processes: int = 8) -> Any:
    return load_config(released / name, processes=processes)


def test_the_list_of_released_files_is_whole() -> None:
    assert len(SETTINGS) == 24 and len(YAMLS) == 21


@pytest.mark.parametrize("name", YAMLS)
def test_released_file_loads_as_its_task(released: Path, name: str) -> None:
    config = load(released, name)
    expected = next(kind for start, kind in TASKS.items() if Path(name).name.startswith(start))
    assert type(config) is expected
    theirs = SETTINGS[name]
    assert config.optimizer.lr == float(theirs["optimizer"]["lr"])
    assert config.optimizer.lr_mult == theirs["optimizer"]["lr_mult"]
    assert config.training.epochs == theirs["schedular"]["epochs"]
    assert config.model.vision.image_size == theirs["image_res"]
    assert config.model.vision.total_stride == theirs["patch_size"]
    assert config.model.text.weights == theirs["text_encoder"]
    assert (config.optimizer.clip_grad_norm is not None) == ("accelerator" in theirs)


@pytest.mark.parametrize("size", ["3m", "4m"])
def test_our_pretraining_files_are_the_released_ones_on_eight_processes(released: Path, size: str) -> None:
    ours = load_config(ROOT / f"configs/Pretrain_{size}.yaml")
    theirs = load(released, f"configs/Pretrain_{size}.yaml", processes=8)
    assert ours.model_copy(update={"output_dir": theirs.output_dir}) == theirs


REPLACED = {
    "data/finetune/nlvr_en/nlvr_": "iglue/datasets/nlvr2/annotations/",
    "data/marvl/marvl-{language}_train": "iglue/datasets/marvl/few_shot/annotations/marvl-{language}_train",
    "data/marvl/": "iglue/datasets/marvl/zero_shot/annotations/",
    "data/wit/annotations-bs64/": "iglue/datasets/wit/annotations/",
    "data/wit/annotations_machine-translate-bs64/": "iglue/datasets/wit/annotations_machine-translate/",
}
"""Where the released files read what a preprocessing step wrote, ours read what that step would have read."""


def original(name: str) -> str:
    for prepared, source in REPLACED.items():
        if name.startswith(prepared):
            return source + name.removeprefix(prepared).replace(".jsonl", ".json").replace(".json", ".jsonl")
    return name


@pytest.mark.parametrize("name", [name for name in YAMLS if name.startswith(FT)])
def test_our_fine_tuning_files_are_the_released_ones(released: Path, name: str) -> None:
    """In everything but prepared annotations, the global batch of the published commands, and MaRVL's translations."""
    ours, theirs = load_config(ROOT / name).model_dump(), load(released, name).model_dump()
    theirs["output_dir"] = ours["output_dir"]
    if "train_files" in theirs["data"]:
        theirs["training"]["batch_size"] = 128
        theirs["data"]["train_files"] = tuple(map(original, theirs["data"]["train_files"]))
        for key in ("validation_files", "test_files", "translated_test_files"):
            theirs["data"][key] = {k: tuple(map(original, files)) for k, files in theirs["data"][key].items()}
    if name.endswith("WIT.yaml"):
        theirs["data"]["image_tables"] = ("images/image_data_train/image_pixels", "images/wit_test")
    if name.endswith("NLVR.yaml"):
        translated = ours["data"]["translated_test_files"]
        assert translated.keys() == theirs["data"]["test_files"].keys() - {"en"}
        theirs["data"]["translated_test_files"] = translated
    assert ours == theirs


def test_our_fine_tuning_files_have_the_released_names_and_shared_bases() -> None:
    files = sorted((ROOT / FT).glob("*.yaml"))
    assert [f"{FT}{path.name}" for path in files] == sorted(name for name in YAMLS if name.startswith(FT))
    assert all(re.search(r"^base: ", path.read_text(), re.MULTILINE) for path in files)


def test_pretraining_values(released: Path) -> None:
    config = load(released, "configs/Pretrain_4m.yaml", processes=4)
    images, regions, texts = config.data.images, config.data.regions, config.data.texts
    assert len(images.files) == 4 and len(regions.files) == 3
    assert (images.batch_size, regions.batch_size, regions.max_images, texts.batch_size) == (512, 512, 192, 512)
    assert regions.probability == 0.5 and texts.probability == 1.0
    assert regions.code_switch and regions.careful_hflip and regions.min_box_inside == 0.5
    assert (images.text.max_tokens, images.text.max_masks, images.text.max_span) == (40, 12, 3)
    assert (texts.text.max_tokens, texts.text.max_masks, texts.text.span_probability) == (64, 20, 0.2)
    assert config.schedule.warmup_steps == 2500 and config.schedule.warmup_fraction is None
    assert config.training.dataset_size == 5004332
    assert config.training.save_every == 48875  # 5 epochs of ceil(5004332 / 512) steps, less than 50,000
    assert config.data.images_mono is None  # no files


def test_a_negative_iter_perc_turns_a_source_off(released: Path, variant: Callable[..., Path]) -> None:
    assert load(released, "configs/Pretrain_3m.yaml").data.regions is None
    path = variant("configs/Pretrain_4m.yaml", lambda it: it["regions"].update(iter_perc=-1))
    assert load_config(path).data.regions is None
    path = variant("configs/Pretrain_4m.yaml", lambda it: it["texts_para"].update(iter_perc=0.25))
    assert load_config(path).data.texts.probability == 0.25


def test_retrieval_values(released: Path) -> None:
    config = load(released, FT + "Retrieval_coco_all_ft.yaml", processes=2)
    assert len(config.data.train_files) == 3
    assert config.data.validation_files["zh"] == ("data/finetune/mscoco/zh.val.json",)
    assert set(config.data.test_files) == {"en", "zh", "ja"}
    assert (config.data.format, config.data.image_root) == ("list", "images/")
    assert config.training.batch_size == 20
    evaluation = config.evaluation
    assert (evaluation.batch_size, evaluation.text_batch_size, evaluation.candidates) == (6, 32, 256)
    assert (config.data.text.max_words, config.data.text.max_tokens) == (30, 40)
    assert config.data.augment.crop_scale == (0.5, 1.0)
    assert config.schedule.warmup_fraction == 0.1
    assert (config.training.first_validation, config.training.validate_every) == (0, 1)


def test_xflickrco_and_wit_values(released: Path) -> None:
    config = load(released, FT + "xFlickrCO.yaml")
    assert config.data.format == "xflickrco"
    assert config.data.image_roots == {"flickr30k": "images/flickr30k-images", "coco": "images/val2014"}
    assert set(config.data.translated_test_files) == set(config.data.test_files) - {"en"}
    assert config.training.first_validation == 7
    assert (config.data.text.max_words, config.data.text.max_tokens) == (80, 80)
    assert set(config.data.validation_files) == {"en"}
    wit = load(released, FT + "WIT.yaml")
    assert wit.data.format == "wit" and len(wit.data.test_files) == 11
    assert wit.training.epochs == 5 and wit.training.first_validation == 3


def test_answering_values(released: Path) -> None:
    config = load(released, FT + "GQA.yaml")
    assert config.data.answer_list == "iglue/datasets/gqa/annotations/trainval_ans2label.json"
    assert config.data.test_files["pt"] == ("iglue/datasets/xGQA/annotations/few_shot/pt/test.json",)
    assert config.data.image_root == "images/gqa/"
    assert config.decoder_layers == 6 and config.evaluation.candidates == 128
    text = config.data.text
    assert (text.max_words, text.max_words_evaluation, text.max_tokens) == (30, 50, 40)


def test_classification_and_reasoning_values(released: Path) -> None:
    config = load(released, FT + "XVNLI.yaml")
    assert config.num_labels == 3 and config.training.batch_size == 96 and config.evaluation.batch_size == 12
    assert set(config.data.test_files) == {"ar", "en", "es", "fr", "ru"}
    reasoning = load(released, FT + "NLVR.yaml")
    assert reasoning.data.test_files["sw"] == ("data/marvl/marvl-sw.json",)
    assert reasoning.data.text.max_tokens is None and reasoning.data.text.max_words == 30
    assignment = load(released, FT + "NLVR_multilingual_pretrain_O1.yaml")
    assert assignment.data.images.batch_size == 1024 and assignment.training.dataset_size == 2838361
    assert assignment.optimizer.clip_grad_norm == 1.0


@pytest.mark.parametrize(
    ("name", "train", "validation"),
    [
        ("XVNLI", "XVNLI/annotations/{language}/train_{shots}.jsonl", "XVNLI/annotations/{language}/test.jsonl"),
        ("xFlickrCO", "CO/annotations/{language}/train_{shots}.jsonl", "CO/annotations/{language}/test.jsonl"),
        ("GQA", "xGQA/annotations/few_shot/{language}/train_48.json", "xGQA/annotations/few_shot/{language}/test.json"),
        ("NLVR", "data/marvl/marvl-{language}_train10x2.json", "data/marvl/marvl-{language}.json"),
    ],
)
def test_few_shot_braces_get_names(released: Path, name: str, train: str, validation: str) -> None:
    config: FinetuneConfig = load(released, f"{FT}{name}_fewshot.yaml")
    assert config.data.few_shot and config.data.test_files == {}
    assert config.data.train_files[0].endswith(train)
    assert config.data.validation_files["{language}"][0].endswith(validation)
    assert (config.training.first_validation, config.training.validate_every) == (9, 10)


def test_overrides_and_bases_use_our_keys(released: Path, tmp_path: Path) -> None:
    path = released / "configs/Pretrain_3m.yaml"
    assert load_config(path, ["data.texts=null", "optimizer.lr=2e-4"]).optimizer.lr == 2e-4
    with pytest.raises(UserError, match="schedular is not a known setting; did you mean schedule?"):
        load_config(path, ["schedular.epochs=3"])
    top = tmp_path / "top.yaml"
    top.write_text(f"base: {path}\nseed: 7\n")
    assert load_config(top).seed == 7


# --------------------------------------------------------------------------------------------------------- the model


def test_sizes_of_the_golden_folder_come_from_its_text_encoder() -> None:
    model = published_model(json.loads((GOLDEN / "manifest.json").read_text())["config"], GOLDEN)
    text = model.text
    assert (text.vocab_size, text.hidden_size, text.num_heads, text.intermediate_size) == (997, 128, 4, 256)
    assert (text.max_positions, text.num_layers, text.num_text_layers) == (66, 12, 6)
    assert (model.vision.image_size, model.vision.embed_dim, model.vision.window_size) == (128, 16, 4)
    assert model.vision.weights is None and model.embed_dim == 32
    assert Path(text.weights).is_dir()  # found beside the settings, not in the working directory


def test_our_golden_base_has_the_golden_sizes() -> None:
    model = published_model(json.loads((GOLDEN / "manifest.json").read_text())["config"], GOLDEN)
    base = ROOT / "configs/model/golden-tiny.yaml"
    ours = load_config(base, ["data.images.files=[a]", "data.images.batch_size=2"]).model
    own = {"tokenizer": model.text.tokenizer, "weights": model.text.weights}
    assert ours.model_copy(update={"text": ours.text.model_copy(update=own)}) == model


def test_vits_are_built_where_the_widths_agree(released: Path, variant: Callable[..., Path]) -> None:
    clip = {"ckpt": "clip.bin", "vision_width": 768, "patch_size": 16, "hidden_act": "quick_gelu"}
    clip |= {"num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072, "attention_dropout": 0.0}
    (released / "clip.json").write_text(json.dumps(clip))
    (released / "xlmr").mkdir(exist_ok=True)
    sizes = {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072}
    (released / "xlmr" / "config.json").write_text(json.dumps(sizes))
    change = {"vision_config": "clip.json", "use_swin": False, "patch_size": 16, "text_encoder": "xlmr"}
    path = variant("configs/Pretrain_3m.yaml", lambda it: it.update(change, use_clip_vit=True))
    assert load_config(path).model.vision.architecture == "clip_vit"
    path = variant("configs/Pretrain_3m.yaml", lambda it: it.update(change))
    vision = load_config(path).model.vision
    assert (vision.architecture, vision.depths, vision.image_size, vision.total_stride) == ("deit", (12,), 224, 16)
    path = variant("configs/Pretrain_3m.yaml", lambda it: it.update(change, text_encoder="data/xlm-roberta-large"))
    with pytest.raises(UserError, match="vision.embed_dim gives width 768"):
        load_config(path)


# --------------------------------------------------------------------------------------------------------- refusals

PRETRAIN, COCO, GQA = "configs/Pretrain_3m.yaml", FT + "Retrieval_coco_en_ft.yaml", FT + "GQA.yaml"

REFUSED: list[tuple[str, dict[str, Any], str]] = [
    (PRETRAIN, {"image_res": 256}, "image_res is 256, but "),
    (PRETRAIN, {"patch_size": 16}, "has a total stride of 32; set it to 32"),
    (PRETRAIN, {"use_clip_vit": True}, "use_swin and use_clip_vit are both true"),
    (PRETRAIN, {"use_one_cl_proj_only": True}, "use_one_cl_proj_only is True, but images and texts"),
    (PRETRAIN, {"schedular.lr": "2e-4"}, "schedular.lr is 0.0002, but optimizer.lr is 0.0001"),
    (PRETRAIN, {"schedular.sched": "cosine"}, "schedular.sched is 'cosine'"),
    (PRETRAIN, {"optimizer.opt": "sgd"}, "optimizer.opt is 'sgd'"),
    (PRETRAIN, {"accelerator.GRAD_ACCUMULATE_STEPS": 2}, "our key compute.accumulate cuts it into parts"),
    (PRETRAIN, {"images.tokenized": True}, "images.tokenized is True"),
    (PRETRAIN, {"calc_image_bbox_loss": True}, "objective.box_loss_on_whole_images needs data.regions"),
    (PRETRAIN, {"max_tokens": "many"}, "max_tokens must be a number, but it is 'many'"),
    (PRETRAIN, {"images.batch_size": 1.5}, "images.batch_size must be a whole number, but it is 1.5"),
    (PRETRAIN, {"images": [1]}, "images must be a block"),
    (PRETRAIN, {"train_file": 3}, "train_file must be a list of files"),
    (PRETRAIN, {"train_file": []}, "data.images.files needs at least 1 entry"),
    (PRETRAIN, {"use_tlm": 1}, "use_tlm must be true or false"),
    (PRETRAIN, {"optimizer.lr": None}, "optimizer.lr is missing"),
    (PRETRAIN, {"vision_config": "configs/config_swinC.json"}, "names configs/config_swinC.json, which is neither"),
    (PRETRAIN, {"mask_probs": 0.3}, "mask_probs is not a published setting; did you mean mask_prob?"),
    (PRETRAIN, {"images.batchsize": 3}, "images.batchsize is not a published setting; did you mean batch_size?"),
    (PRETRAIN, {"k_test": 3}, "k_test is not a published setting"),
    (PRETRAIN, {"mask_prob": 2.0}, "mask_probability must be at most 1.0"),
    (COCO, {"ktest": 3}, "ktest is not a published setting; did you mean k_test?"),
    (COCO, {"val_file": None}, "val_file is missing"),
    (COCO, {"train_file": ["a/{}/{}/{}"]}, "has more than two pairs of braces"),
    (COCO, {"test_file": {}}, "test_files is empty, which only few-shot files"),
    (COCO, {"gmt_test_file": {"sw": "a"}}, "translated_test_files has languages that test_files lacks: sw"),
    (GQA, {"test_file": {"de": ["a.json", "other.json"]}}, "test_file for de has other answers than answer_list"),
    (GQA, {"num_dec_layers": 9}, "decoder_layers is 9"),
    (GQA, {"max_tokens": 600}, "max_tokens 600 of data exceeds model.text.max_positions = 514"),
    (GQA, {"batch_size_train": 0}, "training.batch_size must be greater than 0"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "changes", "sentence"), REFUSED, ids=[str(row[1])[:60] for row in REFUSED])
def test_refusal(variant: Callable[..., Path], name: str, changes: dict[str, Any], sentence: str) -> None:
    def change(values: dict[str, Any]) -> None:
        for dotted, value in changes.items():
            *blocks, key = dotted.split(".")
            target = values
            for block in blocks:
                target = target[block]
            target[key] = value

    path = variant(name, change)
    with pytest.raises(UserError) as caught:
        load_config(path)
    message = str(caught.value)
    assert sentence in message
    assert message.startswith(str(path))


def test_a_published_line_is_named(variant: Callable[..., Path]) -> None:
    path = variant(PRETRAIN, lambda it: it.update(embed_dims=3))
    line = next(n for n, text in enumerate(path.read_text().splitlines(), 1) if text.startswith("embed_dims"))
    with pytest.raises(UserError, match=f"variant.yaml:{line}: embed_dims is not a published setting"):
        load_config(path)


def test_an_unreadable_vision_config(variant: Callable[..., Path], released: Path) -> None:
    (released / "torn.json").write_text('{"ckpt": ')
    path = variant(PRETRAIN, lambda it: it.update(vision_config="torn.json"))
    with pytest.raises(UserError, match="torn.json: this is not readable JSON"):
        load_config(path)
    (released / "odd.json").write_text(json.dumps(SETTINGS["configs/config_swinB_224.json"] | {"window": 7}))
    path = variant(PRETRAIN, lambda it: it.update(vision_config="odd.json"))
    with pytest.raises(UserError, match="odd.json: vision_config.window is not a .* did you mean window_size?"):
        load_config(path)
