"""Which kinds of batch each outer step trains: a pure function of (seed, step).

Every process computes the same answer, so processes need not ask each other. Nothing is saved: a resumed run computes
how many batches of each source lie behind it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from cclm.config.pretrain import PretrainConfig
from cclm.config.sources import DataConfig

KINDS = ("texts", "images_mono", "images", "regions")
"""Kinds of batch by the name of their source in `config.data`, in the order in which an outer step trains them."""

_DRAWS = 4
"""Numbers drawn for each step: one block of Philox4x64, so that the counter is the step. The last one is not used."""
_STREAM = 0x706C616E
"""Second word of the key. It keeps these draws apart from other uses of the seed."""


@dataclass(frozen=True)
class Plan:
    """The course of a run over its sources, in the published order (docs/method.md, section Course of pre-training).

    An outer step trains parallel texts and monolingual images, each with its own probability. Then it makes one main
    update: regions with their probability, images otherwise. The very first step of a run with regions makes both.
    Each batch is an optimizer update of its own.
    """

    seed: int
    texts: float = 0.0
    """Probability; 0 where there is no such source. The following two are probabilities, too."""
    images_mono: float = 0.0
    regions: float = 0.0

    @staticmethod
    def of(config: PretrainConfig) -> Plan:
        """The plan of a config. The images source gets every main update that regions do not take."""
        data = config.data
        return Plan(config.seed, *(_probability(data, kind) for kind in ("texts", "images_mono", "regions")))

    def kinds_of_step(self, step: int) -> tuple[str, ...]:
        """What outer step `step` (from 0) trains, in order."""
        chosen = self._chosen(step, 1)[0]
        return tuple(kind for kind, is_on in zip(KINDS, chosen, strict=True) if is_on)

    def batches_before(self, step: int) -> dict[str, int]:
        """Batches of each kind trained in outer steps 0 .. step-1: the position of every source at `step`."""
        counts = self._chosen(0, step).sum(axis=0)
        return dict(zip(KINDS, counts.tolist(), strict=True))

    def _chosen(self, start: int, count: int) -> np.ndarray:
        """(count, len(KINDS)) bool: what steps start .. start+count-1 train."""
        draws = _uniform(self.seed, start, count)  # (count, _DRAWS)
        regions = draws[:, 2] < self.regions
        images = ~regions
        if start == 0 and count and self.regions > 0:
            regions[0] = images[0] = True
        return np.stack([draws[:, 0] < self.texts, draws[:, 1] < self.images_mono, images, regions], axis=1)


def steps_of_run(config: PretrainConfig, num_records: int) -> int:
    """Outer steps of the whole run: `max_steps`, or epochs over `dataset_size` (or `num_records`) images."""
    if config.training.max_steps is not None:
        return config.training.max_steps
    size = config.training.dataset_size or num_records
    return config.training.epochs * math.ceil(size / config.data.images.batch_size)


def _probability(data: DataConfig, kind: str) -> float:
    source = getattr(data, kind)
    return 0.0 if source is None else source.probability


def _uniform(seed: int, start: int, count: int) -> np.ndarray:
    """(count, _DRAWS) float64 in [0, 1): row i belongs to step start + i, whatever `start` and `count` are.

    Made from Philox's raw words, whose stream numpy guarantees. It may change the streams of Generator methods.
    """
    bits = np.random.Philox(key=np.array([seed, _STREAM], dtype=np.uint64), counter=[start, 0, 0, 0])
    words = bits.random_raw(count * _DRAWS).reshape(count, _DRAWS)
    return (words >> np.uint64(11)) * 2.0**-53
