"""Options and the variables of training operators become torchrun's settings, or one sentence."""

import argparse
import os
import signal

import pytest
import torch
from torch.distributed.elastic.rendezvous.api import RendezvousConnectionError, RendezvousTimeoutError

from cclm.cli.launch import _torchrun_options, add_parser
from cclm.cli.main import run
from cclm.errors import UserError
from cclm.launch import torchrun
from cclm.launch.causes import Cause
from cclm.launch.launcher import check_world_sizes
from cclm.launch.meeting_addresses import addresses_of, index_of_host
from cclm.launch.torchrun import classify_agent_error, parse_options


@pytest.fixture
def made(monkeypatch, tmp_path):
    """Settings for options as typed, among variables."""

    def make(*words: str, **variables: str):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        parser = argparse.ArgumentParser()
        add_parser(parser.add_subparsers())
        args = parser.parse_args(["launch", *words, "--", "pretrain", "x.yaml", "--resume", "never"])
        assert args.command[-4:] == ["pretrain", "x.yaml", "--resume", "never"]
        return parse_options(_torchrun_options(args), ["pretrain", "x.yaml"], str(tmp_path)).config

    return make


def test_one_machine_is_the_default_and_meets_itself(made):
    config = made("--nproc-per-node", "3")
    assert (config.min_nodes, config.max_nodes, config.nproc_per_node) == (1, 1, 3)
    assert (config.rdzv_backend, config.rdzv_endpoint, config.max_restarts) == ("c10d", "localhost:0", 0)


def test_the_operators_variables_and_options_that_beat_them(made):
    config = made(
        "--max_restarts", "5",
        PET_NNODES="2:4", PET_NPROC_PER_NODE="2", PET_RDZV_ENDPOINT="job-worker-0:23456", PET_RDZV_BACKEND="c10d",
        PET_RDZV_ID="job", PET_RDZV_CONF="join_timeout=1800", PET_MAX_RESTARTS="3", PET_STANDALONE="",
        TORCHX_REPLICA_ID="1",
    )  # fmt: skip
    assert (config.min_nodes, config.max_nodes, config.nproc_per_node, config.max_restarts) == (2, 4, 2, 5)
    assert (config.rdzv_endpoint, config.run_id) == ("job-worker-0:23456", "job")
    assert config.rdzv_configs["join_timeout"] == "1800" and config.rdzv_configs["is_host"] == "False"


@pytest.mark.parametrize(
    ("endpoint", "addresses"),
    [
        ("job-worker-0:23456", ["job-worker-0:23456", "job-worker-1:23456"]),
        ("job-worker-0.team-a.svc:1", ["job-worker-0.team-a.svc:1", "job-worker-1.team-a.svc:1"]),
        ("host1:29500", []),
        ("localhost:29500", []),
        ("job-worker-10:1", []),
        ("127.0.0.1:1", []),
        ("job-worker-0", []),
    ],
)
def test_the_nodes_of_a_job_are_named_like_its_first(endpoint: str, addresses: list[str]) -> None:
    assert [str(address) for address in addresses_of(endpoint, 2)] == addresses


@pytest.mark.parametrize(("name", "index"), [("job-worker-1", 1), ("job-worker-2", None), ("worker-1", None)])
def test_a_pod_knows_its_number_by_its_name(name: str, index: int | None) -> None:
    assert index_of_host(name, addresses_of("job-worker-0.team-a.svc:1", 2)) == index


def test_an_address_is_enough_to_meet_elastically(made):
    assert made("--nnodes", "1:2", "--rdzv-endpoint", "host:1").rdzv_backend == "c10d"


@pytest.mark.parametrize("words", [[], ["--rdzv-endpoint", "host:1"], ["--master-port", "1"]])
def test_a_job_of_one_machine_has_a_name_of_its_own(made, words):
    ids = {made(*words).run_id, made(*words).run_id}
    assert len(ids) == 2 and "none" not in ids
    assert made(*words, "--rdzv-id", "mine").run_id == "mine"


@pytest.mark.parametrize("words", [["--nnodes", "1:2"], ["--nnodes", "2"]])
def test_never_on_several_machines_needs_a_name(tmp_path, capsys, monkeypatch, words):
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(torchrun, "build_agent", lambda *_: pytest.fail("it was not refused"))
    command = ["pretrain", "configs/demo/pretrain.yaml", f"output_dir={tmp_path}/run", "--resume", "never"]
    assert run(["launch", *words, "--rdzv-endpoint", "localhost:1", "--", *command]) == 2
    assert "give --rdzv-id NAME" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--nnodes", "2"], "several nodes need a place to meet"),
        (["--nnodes", "1:2", "--rdzv-id", "x"], "several nodes need a place to meet"),
        (["--nproc-per-node", "many"], "Unsupported nproc_per_node value: many"),
        (["--nproc-per-node", "gpu"], "finds no GPU on this machine; give a number of processes$"),
        (["--nnodes", "1:x", "--rdzv-endpoint", "host:1"], "--nnodes is '1:x'; give .* MIN:MAX"),
        (["--nnodes", "4:2", "--rdzv-endpoint", "host:1"], "min_nodes"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(made, words, sentence, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=sentence):
        made(*words)


def test_sizes_that_nodes_may_come_to_are_tried_before(tmp_path):
    def check(processes: int) -> None:
        if 8 % processes:
            raise UserError(f"8 cannot be shared by {processes}")

    check_world_sizes(check, 1, 2, 4)
    with pytest.raises(UserError, match=r"shared by 6 \(with --nnodes 2:4 the run may come to 3 nodes\)"):
        check_world_sizes(check, 2, 4, 2)


def test_rendezvous_that_fails_may_be_tried_again():
    for error in (RendezvousConnectionError("gone\nstack"), RendezvousTimeoutError()):
        failure = classify_agent_error(error)
        assert failure.cause is Cause.LOST_PEER and "stack" not in failure.message
    assert classify_agent_error(ZeroDivisionError("x")).cause is Cause.BUG
