"""Counts of what a process trains."""

from dataclasses import dataclass

import pytest
import torch

from cclm.metrics.throughput import Throughput
from cclm.sequences import Sequences


@dataclass
class Texts:
    texts: Sequences


@pytest.mark.parametrize(("computes_padding", "computed"), [(True, 12), (False, 6)])
def test_padding_counts_where_it_is_computed(computes_padding: bool, computed: int) -> None:
    throughput = Throughput(computes_padding=computes_padding)
    throughput.add("texts", Texts(Sequences(torch.ones(3, 4, dtype=torch.long), torch.tensor([1, 2, 3]))))
    assert (throughput.real_tokens, throughput.computed_tokens) == (6, computed)
