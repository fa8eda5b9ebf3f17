"""The fine-tuning files of every task, in the original formats and folders: in which order, and on which pictures."""

from __future__ import annotations

from cclm.demo.answering_files import write_questions
from cclm.demo.classification_files import write_xvnli
from cclm.demo.reasoning_files import write_pairs
from cclm.demo.retrieval_files import write_coco, write_flickr, write_multi30k, write_wit
from cclm.demo.scenes import Scene, distinct_test_scenes, training_scene
from cclm.demo.world_writer import WorldWriter

FEW_SHOT_PICTURES = 100
"""Pictures of the largest few-shot file (xFlickr&CO)."""


def write_finetuning(world: WorldWriter, train: int, test: int) -> None:
    """Write every task's files.

    Args:
        train: scenes of each English training set.
        test: scenes of each validation set, and of each test set.
    """
    flickr = flickr_pictures(world, train, test)
    write_multi30k(world, flickr)
    write_flickr(world, flickr)
    write_xvnli(world, flickr)
    write_coco(world, max(2, train // 2), test)
    write_questions(world, train, test)
    write_pairs(world, train, test)
    write_wit(world, max(2, train // 2), test)


def flickr_pictures(world: WorldWriter, train: int, test: int) -> dict[str, dict[str, Scene]]:
    """Draw the Flickr30k pictures, which Multi30K, xFlickr&CO and XVNLI share: scenes by picture id, by split."""
    splits = {
        "train": [training_scene(world.rng("flickr", "train", number)) for number in range(train)],
        "few": [training_scene(world.rng("flickr", "few", number)) for number in range(FEW_SHOT_PICTURES)],
        "test": distinct_test_scenes(test, world.rng("flickr", "test")),
    }
    splits["valid"] = distinct_test_scenes(test, world.rng("flickr", "valid"), avoid=splits["test"])
    pictures = {}
    for number, (split, scenes) in enumerate(splits.items()):
        pictures[split] = {
            str(1_000_092_795 + 1_000_000_000 * number + 7_919 * index): scene for index, scene in enumerate(scenes)
        }
        for name, scene in pictures[split].items():
            world.picture(f"images/flickr30k-images/{name}.jpg", scene)
    return pictures
