"""A golden folder with inputs that do not fit is refused with file and tensor; small changes are seen."""

import copy
import shutil
from pathlib import Path

import pytest
import torch

from cclm.errors import UserError
from cclm.parity.comparison import relative_error
from cclm.parity.golden import Golden, read_golden
from cclm.parity.input_checks import check_numbers, check_tensors
from cclm.parity.suite import missing_sections

FOLDER = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def golden() -> Golden:
    return read_golden(FOLDER)


@pytest.mark.parametrize(
    ("file", "name", "change"),
    [
        ("inputs", "text_ids", lambda ids: ids + 997),
        ("inputs", "text_ids", lambda ids: ids - 5),
        ("inputs", "text_ids", lambda ids: ids.float()),
        ("inputs", "image", lambda image: image[:, :2]),
        ("inputs", "image", lambda image: image.double()),
        ("inputs", "image", lambda image: image[:1]),
        ("inputs", "masked_pos", lambda columns: columns + 24),
        ("inputs", "idx_to_group_img", lambda rows: rows + 1),
        ("inputs", "vqa_answer_rows", lambda rows: rows + 7),
        ("inputs", "rel_pos_table", lambda table: table[:-1]),
        ("inputs", "never_heard_of", lambda _: torch.ones(1)),
        ("task_heads", "never_heard_of", lambda _: torch.ones(1)),
        ("two_process_inputs", "never_heard_of", lambda _: torch.ones(1)),
        ("task_heads", "nlvr.cls_head.3.weight", lambda weight: weight[:1]),
        ("more", "nlvr_labels", lambda labels: labels + 2),
        ("more", "ta_head.weight", lambda weight: weight[:, 1:]),
    ],
)
def test_unfit_tensors_are_named(golden: Golden, file: str, name: str, change) -> None:
    tensors = {key: dict(content) for key, content in golden.tensors.items()}
    tensors[file][name] = change(tensors[file].get(name))
    with pytest.raises(UserError, match=f"{file}.safetensors.*tensor {name}"):
        check_tensors(FOLDER, tensors, golden.model_config)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda numbers: numbers.update(more=[]), "more.json: expected an object"),
        (lambda numbers: numbers["extra"].update(retrieval=[]), "retrieval must be an object"),
        (lambda numbers: numbers["extra"]["retrieval"]["scores_i2t"][0].pop(), "different lengths"),
        (lambda numbers: numbers["extra"]["text_cleaning"][0].update(raw=3), "text_cleaning/0/raw must be a string"),
        (lambda numbers: numbers["extra"]["text_cleaning"][0].update(raw="..."), "empty after cleaning"),
        (lambda numbers: numbers["vision"].update(num_heads=[0, 2, 4, 8]), "num_heads must be"),
        (lambda numbers: numbers["vision"].update(ckpt=None), "ckpt must be a string"),
        (lambda numbers: numbers["vision"].update(later=1), "key later is unknown"),
    ],
)
def test_unfit_numbers_are_named(golden: Golden, change, sentence: str) -> None:
    numbers = copy.deepcopy(golden.numbers)
    change(numbers)
    with pytest.raises(UserError, match=sentence):
        check_numbers(FOLDER, numbers)


def test_fewer_cleaning_lines_and_new_keys_are_seen(golden: Golden) -> None:
    numbers = copy.deepcopy(golden.numbers)
    numbers["extra"]["text_cleaning"].pop()
    numbers["extra"]["retrieval"]["scores_foo"] = [[1.0]]
    numbers["more"]["raw"] = numbers["more"]["results"]["note"] = "x"
    numbers["more"]["note"] = 3
    other = Golden(FOLDER, golden.tensors, numbers, golden.model_config)
    assert missing_sections(golden) == {} and len(missing_sections(other)) == 1
    added = {"extra.json/retrieval/scores_foo/0", "more.json/raw", "more.json/results/note", "more.json/note"}
    assert other.expected().keys() - golden.expected().keys() == added


@pytest.mark.parametrize("name", ["vqa_topk_probs", "region_embeds", "mlm_logits", "text_embeds", "image_embeds"])
def test_small_elements_count(golden: Golden, name: str) -> None:
    """Elements of a hundredth of the root mean square, and the smallest probability."""
    wanted = golden.tensors["outputs"][name]
    flat = wanted.clone().flatten()
    aim = 0.0 if name == "vqa_topk_probs" else 0.01 * wanted.square().mean().sqrt()
    flat[(flat.abs() - aim).abs().argmin()] *= 1.01
    assert relative_error(flat.view(wanted.shape), wanted) > 1e-4


@pytest.mark.parametrize(("name", "sentence"), [("later.bin", "does not know"), ("xlm-roberta-large/x", "not know")])
def test_unknown_files_are_refused(tmp_path: Path, name: str, sentence: str) -> None:
    folder = shutil.copytree(FOLDER, tmp_path / "golden")
    (folder / "README.md").write_text("fine")
    (folder / name).write_text("")
    with pytest.raises(UserError, match=sentence):
        read_golden(folder)


def test_missing_text_config_is_named(tmp_path: Path) -> None:
    folder = shutil.copytree(FOLDER, tmp_path / "golden")
    (folder / "xlm-roberta-large" / "config.json").unlink()
    with pytest.raises(UserError, match="xlm-roberta-large/config.json is missing"):
        read_golden(folder)
