"""The order of samples: once an epoch, the same for any number of processes, found from the batch number alone."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from cclm.data.stored.order import CHUNK_BYTES, SampleOrder, slots_of_rank, split_slots
from cclm.errors import UserError
from cclm.training.identity import differences, pretraining_identity

# records of each file, slots
WORLDS = [([400, 64, 800], 16), ([37, 90], 8), ([3, 7], 16), ([16], 16), ([1003], 7), ([1] * 17, 8), ([5], 1)]


def _order(files: list[int], slots: int, seed: int = 7, source: int = 0) -> SampleOrder:
    return SampleOrder(files, [count * 1000 for count in files], slots, seed, source)


@pytest.mark.parametrize("files, slots", WORLDS)
def test_every_record_once_an_epoch(files: list[int], slots: int) -> None:
    order, epochs = _order(files, slots), 6
    batches = -(-epochs * sum(files) // slots)
    seen = Counter()
    for batch in range(batches):
        refs = order.records_of(batch, range(slots))
        assert len(refs) == slots
        seen.update((ref.epoch, ref.file, ref.record) for ref in refs)
        starts = np.concatenate([[0], np.cumsum(files)])
        assert all(ref.number == starts[ref.file] + ref.record for ref in refs)
        assert all(ref.run[0] <= ref.record < ref.run[1] <= files[ref.file] for ref in refs)
    assert set(seen.values()) == {1}
    done = batches * slots // sum(files)  # all batches so far fill these epochs and a part of one more
    for epoch in range(done - 1):
        expected = {(epoch, file, record) for file, count in enumerate(files) for record in range(count)}
        assert expected <= seen.keys()


@pytest.mark.parametrize("files, slots", WORLDS)
def test_whole_stretches_end_with_less_than_a_batch_open(files: list[int], slots: int) -> None:
    order, total = _order(files, slots), sum(files)
    for epoch in range(1, 6):
        seen = [ref for b in range(order.first_batch(epoch)) for ref in order.records_of(b, range(slots))]
        assert len({(ref.epoch, ref.number) for ref in seen}) == len(seen)
        assert 0 <= epoch * total - len(seen) < slots
        assert all(ref.epoch < epoch for ref in seen)


def test_access_is_random_and_independent_of_what_was_asked_before() -> None:
    files, slots = WORLDS[0]
    forwards = _order(files, slots)
    reference = [forwards.records_of(batch, range(slots)) for batch in range(300)]
    for start in (0, 37, 78, 79, 80, 157, 158, 299):
        assert _order(files, slots).records_of(start, range(slots)) == reference[start]
    backwards = _order(files, slots)
    assert [backwards.records_of(batch, range(slots)) for batch in reversed(range(300))] == reference[::-1]


@pytest.mark.parametrize("world, parts", [(1, 1), (1, 2), (2, 2), (4, 3), (8, 2)])
def test_ranks_and_workers_only_cut_the_batch(world: int, parts: int) -> None:
    files, slots = WORLDS[0]
    whole = _order(files, slots)
    for batch in (0, 5, 78, 79, 200):
        pieces = []
        for rank in range(world):
            for part in range(parts):
                mine = split_slots(slots_of_rank("k", slots, rank, world), part, parts)
                pieces += _order(files, slots).records_of(batch, mine)
        assert pieces == whole.records_of(batch, range(slots))


def test_seeds_sources_and_epochs_differ() -> None:
    files, slots = WORLDS[0]

    def numbers(order: SampleOrder, first: int) -> list[int]:
        return [ref.number for batch in range(first, first + 79) for ref in order.records_of(batch, range(slots))]

    base = numbers(_order(files, slots), 0)
    for other in (
        numbers(_order(files, slots, seed=8), 0),
        numbers(_order(files, slots, source=1), 0),
        numbers(_order(files, slots), 79),
    ):
        assert sorted(other) == sorted(base)
        assert sum(a == b for a, b in zip(base, other, strict=True)) < 0.05 * len(base)


def test_small_data_is_mixed_too() -> None:
    order = _order([1000], 10)
    assert order.num_chunks >= 80
    batches = [{ref.number for ref in order.records_of(b, range(10))} for b in range(200)]
    assert not any(first == second for first in batches[:100] for second in batches[100:])


def test_a_slot_reads_each_run_once_and_in_reach_of_one_request() -> None:
    order = SampleOrder([50_000], [50_000 * 60_000], 4, 1, 0)
    batches = order.first_batch(1)
    for slot in range(4):
        runs = [order.records_of(batch, range(slot, slot + 1))[0].run for batch in range(batches)]
        changes = [run for run, before in zip(runs, [None, *runs], strict=False) if run != before]
        assert len(changes) == len(set(changes))
        assert sum(last - first for first, last in changes) == batches
        assert all((last - first) * 60_000 <= CHUNK_BYTES for first, last in changes)


def test_the_draw_is_the_same_in_every_version() -> None:
    refs = [ref for batch in range(3) for ref in _order([40, 24], 4).records_of(batch, range(4))]
    assert [ref.number for ref in refs] == [17, 3, 38, 37, 16, 2, 39, 36, 59, 13, 25, 10]


def test_a_world_that_does_not_divide_the_batch_is_refused() -> None:
    assert [list(slots_of_rank("k", 6, rank, 3)) for rank in range(3)] == [[0, 1], [2, 3], [4, 5]]
    with pytest.raises(UserError, match=r"data\.images\.batch_size = 6 cannot be shared evenly by 4 processes"):
        slots_of_rank("data.images.batch_size", 6, 0, 4)


def test_going_on_with_as_many_records_in_other_files_is_refused(make_config: Any) -> None:
    config = make_config({})
    layouts = [{"images": _order(files, 4).layout} for files in ([40, 60], [60, 40], [40, 60])]
    records = {"images": 100}
    values = config.model_dump(mode="json")
    same, other = (pretraining_identity(values, records, layout) for layout in (layouts[2], layouts[1]))
    state = {"config": values, "records": records, "layouts": layouts[0]}
    assert differences(state, same) == []
    [difference] = differences(state, other)
    assert difference.startswith("checksum of how the files of data.images are cut was ")
    del state["layouts"]  # of an older checkpoint
    assert differences(state, other) == []
