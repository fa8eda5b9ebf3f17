"""The plan of a run: pure, the same wherever it is asked from, and with the published probabilities."""

import pytest

from cclm.config.pretrain import PretrainConfig
from cclm.training.plan import KINDS, Plan, steps_of_run

FULL = Plan(seed=5, texts=0.3, images_mono=0.6, regions=0.5)


def make_config(**changes):
    source = {"files": ["x"], "batch_size": 32}
    config = {
        "model": {"vision": {"image_size": 64, "embed_dim": 32, "depths": [2, 2], "num_heads": [1, 2]}},
        "data": {"images": source, "texts": {**source, "probability": 0.25}},
    }
    config["model"]["text"] = {"hidden_size": 64, "num_heads": 2}
    config["training"] = changes.pop("training", {})
    config["data"] |= changes.pop("data", {})
    return PretrainConfig.model_validate({**config, **changes})


def test_first_step_makes_both_main_updates():
    assert {"images", "regions"} <= set(FULL.kinds_of_step(0))


def test_every_other_step_makes_one_main_update_and_it_comes_last():
    for step in range(1, 500):
        kinds = FULL.kinds_of_step(step)
        assert ("images" in kinds) != ("regions" in kinds)
        assert kinds[-1] in ("images", "regions")
        assert list(kinds) == sorted(kinds, key=KINDS.index)


@pytest.mark.parametrize("plan", [FULL, Plan(seed=5), Plan(seed=0, regions=1.0), Plan(seed=2**63, texts=1.0)])
def test_batches_before_is_the_sum_of_the_steps(plan):
    counts = dict.fromkeys(KINDS, 0)
    for step in range(300):
        assert plan.batches_before(step) == counts
        for kind in plan.kinds_of_step(step):
            counts[kind] += 1


def test_probabilities():
    steps = 40_000
    counts = FULL.batches_before(steps)
    for kind, probability in (("texts", 0.3), ("images_mono", 0.6), ("regions", 0.5)):
        assert counts[kind] / steps == pytest.approx(probability, abs=0.01)  # 4 standard deviations
    assert counts["images"] + counts["regions"] == steps + 1


def test_sources_are_drawn_independently():
    steps = [FULL.kinds_of_step(step) for step in range(1, 8000)]
    both = sum("texts" in kinds and "images_mono" in kinds for kinds in steps) / len(steps)
    assert both == pytest.approx(0.3 * 0.6, abs=0.02)


def test_another_seed_is_another_plan():
    other = Plan(seed=6, texts=0.3, images_mono=0.6, regions=0.5)
    assert [FULL.kinds_of_step(step) for step in range(50)] != [other.kinds_of_step(step) for step in range(50)]


def test_plan_of_seed_42_never_changes():
    """A checkpoint of today must be resumable tomorrow: the draws are part of the format."""
    plan = Plan(seed=42, texts=0.5, images_mono=0.25, regions=0.25)
    letters = ["".join(kind[0] if kind != "images_mono" else "m" for kind in plan.kinds_of_step(s)) for s in range(12)]
    assert letters == FIRST_STEPS_OF_SEED_42


FIRST_STEPS_OF_SEED_42 = "tir mi mi mi i mi ti tr tmi r i i".split()


def test_plan_of_config_leaves_out_absent_sources():
    assert Plan.of(make_config(seed=3)) == Plan(seed=3, texts=0.25)


def test_images_take_what_regions_leave():
    with pytest.raises(ValueError, match=r"data.images.probability must be 1"):
        make_config(data={"images": {"files": ["x"], "batch_size": 32, "probability": 0.5}})


def test_number_of_steps():
    assert steps_of_run(make_config(training={"epochs": 3}), num_records=65) == 3 * 3
    assert steps_of_run(make_config(training={"epochs": 3, "dataset_size": 64}), num_records=65) == 3 * 2
    assert steps_of_run(make_config(training={"epochs": 3, "max_steps": 7}), num_records=65) == 7
