"""Training input from each store: indexed, re-sharded, and read in the same order whatever the store goes through."""

import hashlib
import itertools
import random
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from cclm import storage
from cclm.cli.main import run
from cclm.config.pretrain import PretrainConfig
from cclm.data.batches.loader import open_source
from cclm.data.stored.audit import Tally, hash_of_all
from cclm.demo.world import TOKENIZER_FOLDER, DemoSize, make_demo_world
from cclm.errors import UserError
from tests.stores.hdfs import HdfsStore
from tests.stores.proxy import Answer, Cut, Stall
from tests.stores.store import SHORT_TIMEOUTS, RunningStore, environment

pytestmark = pytest.mark.slow

RECORDS, BATCH = 96, 8
BATCHES = 2 * RECORDS // BATCH  # two epochs


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Captioned images and a tokenizer."""
    root = tmp_path_factory.mktemp("demo") / "world"
    size = DemoSize(
        image_side=32, image_text=RECORDS, regions=2, mono=2, parallel=2, held_out_test=2, held_out_validation=2,
        finetune_train=2, finetune_test=2,
    )  # fmt: skip
    make_demo_world(root, seed=1, size=size, progress=False)
    return root


@pytest.fixture
def config(world: Path) -> Any:
    """Makes a config that reads images from a folder, by two loader processes."""

    def make(folder: str, **changes: Any) -> PretrainConfig:
        images = {"files": [folder], "batch_size": BATCH, "num_workers": 2, "text": {"max_tokens": 24}, **changes}
        vision = {"image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [1, 1], "num_heads": [1, 2],
                  "window_size": 4}  # fmt: skip
        text = {"vocab_size": 2000, "hidden_size": 32, "num_heads": 2, "intermediate_size": 64, "num_layers": 2,
                "num_text_layers": 1, "max_positions": 64, "tokenizer": str(world / TOKENIZER_FOLDER)}  # fmt: skip
        return PretrainConfig.model_validate(
            {"seed": 5, "model": {"vision": vision, "text": text, "embed_dim": 32}, "data": {"images": images}}
        )

    return make


def command(*words: str) -> None:
    assert run([*words]) == 0


def read(config: PretrainConfig, on_batch: Any = lambda _: None) -> tuple[list[str], Tally]:
    """A digest of each batch, and what the audit counted; `on_batch(number)` is called before each."""
    source = open_source("images", config, rank=0, world_size=1)
    stream = source.batches(0)
    digests = []
    for number in range(BATCHES):
        on_batch(number)
        batch = next(stream)
        seen = batch.images.numpy().tobytes() + batch.masked.tokens.data.numpy().tobytes()
        digests.append(hashlib.sha256(seen).hexdigest())
    stream.close()
    return digests, source.tally


def check_tally(tally: Tally) -> None:
    assert sorted(tally) == [0, 1]
    for count in tally.values():
        assert count.seen == RECORDS and count.seen_hash == hash_of_all(RECORDS)


def test_index_shard_and_train_while_the_store_dies_and_comes_back(
    remote_store: RunningStore, world: Path, config: Any, tmp_path: Path
) -> None:
    folder = remote_store.new_folder()
    # Plain files that somebody put there: indexed by the command.
    parts = storage.list_files(str(world / "data" / "pretrain" / "image_text"))
    for part in parts:
        storage.put_file(part, storage.join(folder, "lines", storage.name(part)))
    with pytest.raises(UserError, match="cclm data index"):
        read(config(storage.join(folder, "lines")))
    command("data", "index", storage.join(folder, "lines"))
    # Re-sharded from store to store, as tars that come with their index.
    command("data", "shard", storage.join(folder, "lines"), storage.join(folder, "tars"), "--size", "40K")
    assert len([file for file in storage.list_files(storage.join(folder, "tars")) if file.endswith(".tar")]) > 1
    # The same made locally is the clean run.
    command("data", "shard", str(world / "data" / "pretrain" / "image_text"), str(tmp_path / "tars"), "--size", "40K")
    clean, tally = read(config(str(tmp_path / "tars")))
    check_tally(tally)

    restarted: list[float] = []

    def restart() -> None:
        time.sleep(3)
        restarted.append(time.monotonic())  # not when it is found to be up: loaders may find it earlier
        remote_store.start()

    starter = threading.Thread(target=restart)

    def fault(number: int) -> None:
        if number == 5:
            remote_store.kill()
            starter.start()

    digests, tally = read(config(storage.join(folder, "tars")), fault)
    assert restarted and time.monotonic() > restarted[0]  # it could not have ended without the store
    starter.join()
    assert digests == clean
    check_tally(tally)


def test_a_dead_data_node_in_mid_epoch(hdfs_store: HdfsStore, world: Path, config: Any, tmp_path: Path) -> None:
    local, remote = str(tmp_path / "lines"), storage.join(hdfs_store.new_folder(), "lines")
    source = str(world / "data" / "pretrain" / "image_text")
    for out in (local, remote):
        command("data", "shard", source, out, "--size", "40K", "--format", "lines")
    clean, _ = read(config(local))
    starters: list[threading.Thread] = []

    def fault(number: int) -> None:
        if number in (5, 15):
            hdfs_store.data_node.kill()
            starters.append(threading.Timer(1.5, hdfs_store.data_node.start))
            starters[-1].start()

    digests, tally = read(config(remote), fault)
    assert digests == clean
    check_tally(tally)


@pytest.mark.parametrize("name", ["s3", "gcs"])
def test_errors_cuts_and_stalls_do_not_change_the_order(
    name: str, request: pytest.FixtureRequest, world: Path, config: Any, tmp_path: Path
) -> None:
    store, proxy = request.getfixturevalue(f"{name}_store"), request.getfixturevalue(f"{name}_proxy")
    local, remote = str(tmp_path / "lines"), storage.join(store.new_folder(), "lines")
    source = str(world / "data" / "pretrain" / "image_text")
    numbers = random.Random(7)
    faults = [Answer(503), Answer(429), Cut(0), Cut(300), Cut(20_000), *[None] * 15]
    proxy.next(*[numbers.choice(faults) for _ in range(2000)])
    for out in (local, remote):  # writing meets the faults too
        command("data", "shard", source, out, "--size", "40K", "--format", "lines")
    clean, _ = read(config(local))

    def fault(number: int) -> None:
        if number in (5, 15):
            proxy.urgent(Stall(400))

    with environment(SHORT_TIMEOUTS):
        before, started = proxy.requests, time.monotonic()
        digests, tally = read(config(remote), fault)
        assert proxy.stalled == 2 and time.monotonic() - started < 300
    assert proxy.requests - before > 20
    assert digests == clean
    check_tally(tally)


def test_an_outage_without_end_ends_training_with_a_sentence(gcs_store: RunningStore, world: Path, config: Any) -> None:
    remote = storage.join(gcs_store.new_folder(), "lines")
    source = str(world / "data" / "pretrain" / "image_text")
    command("data", "shard", source, remote, "--size", "40K", "--format", "lines")
    with environment({storage.PATIENCE: "2"}):
        stream = open_source("images", config(remote), rank=0, world_size=1).batches(0)
        next(stream)
        gcs_store.kill()
        with pytest.raises(storage.StoreUnavailable, match=storage.PATIENCE):
            for _ in itertools.repeat(None, 200):
                next(stream)
        stream.close()
