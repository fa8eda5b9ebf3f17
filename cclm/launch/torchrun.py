"""torchrun's options become the agent of this node. Imports torch, which takes seconds."""

from __future__ import annotations

import logging
import os
import re
import socket
import uuid
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.distributed.elastic.rendezvous.registry as rendezvous
from torch.distributed import run as torch_run
from torch.distributed.elastic.agent.server.api import WorkerSpec
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.rendezvous import RendezvousHandler, RendezvousParameters
from torch.distributed.elastic.rendezvous.api import RendezvousClosedError, RendezvousError, RendezvousTimeoutError
from torch.distributed.launcher.api import LaunchConfig

from cclm.errors import UserError
from cclm.events import Journal, Notice
from cclm.launch.agent import Agent
from cclm.launch.attempts import Attempts
from cclm.launch.causes import Cause, Failure, classify_exception
from cclm.launch.meeting import Limits
from cclm.launch.meeting_addresses import addresses_of, index_of_host, parse_addresses
from cclm.launch.meeting_agent import MeetingAgent, MeetingHandler
from cclm.launch.membership import Membership
from cclm.launch_contract import UNNAMED_JOB

__all__ = ["SignalException", "build_agent", "classify_agent_error", "parse_options", "silence_torch"]

_IN_POD = "KUBERNETES_SERVICE_HOST"
"""Environment variable that Kubernetes sets in each container."""
_JOIN_TIMEOUT = 600
"""Seconds that a node waits for enough others, where --rdzv-conf says nothing. torch's default."""
_STAY_SECONDS = 5.0
"""How long pods stay after the one that hosted a run that has succeeded. When the first pod ends with 0, the operator
removes those that still run, and their logs. So the log that stays is that of rank 0."""


@dataclass(frozen=True)
class TorchrunSettings:
    """What torchrun makes of its options and of PET_* variables."""

    config: LaunchConfig
    command: list[str]
    """The command line of each training process."""


def silence_torch() -> None:
    """Let torch's agent log nothing, as we report its errors in our words. LOGLEVEL=INFO brings its log back."""
    if os.environ.get("LOGLEVEL", "").upper() not in ("INFO", "DEBUG"):
        for name in list(logging.root.manager.loggerDict):
            if name.startswith(("torch.distributed.elastic", "torch.distributed.run", "torch.distributed.launcher")):
                logging.getLogger(name).setLevel(logging.CRITICAL)


def parse_options(options: list[str], command: list[str], log_dir: str) -> TorchrunSettings:
    """Parse torchrun's options.

    Args:
        options: as torchrun's command line takes them; PET_* variables add to them.
        command: arguments of `cclm` for each process.
        log_dir: for what torchrun writes to files, unless the options name a folder.

    Raises:
        UserError: an option cannot be used.
    """
    try:
        args = torch_run.parse_args([*options, "-m", "cclm", *command])  # type: ignore[no-untyped-call]  # torch's has no types
        if args.nproc_per_node == "gpu" and not torch.cuda.is_available():
            raise UserError("--nproc-per-node gpu: PyTorch finds no GPU on this machine; give a number of processes")
        if not re.fullmatch(r"\d+(:\d+)?", args.nnodes):
            raise UserError(f"--nnodes is {args.nnodes!r}; give a number of machines, or MIN:MAX such as 1:4")
        low, high = torch_run.parse_min_max_nnodes(args.nnodes)
        if args.rdzv_backend == "static" and (args.rdzv_endpoint or low != high):
            # The static backend knows only the master's address and a fixed number of nodes.
            args.rdzv_backend = "c10d"
        if args.standalone or (high == 1 and not args.rdzv_endpoint and args.master_port is None):
            args.rdzv_backend, args.rdzv_endpoint = "c10d", "localhost:0"
        elif not args.rdzv_endpoint and (args.rdzv_backend != "static" or args.master_port is None):
            raise UserError("several nodes need a place to meet: name the first one, --rdzv-endpoint HOST:PORT")
        if high == 1 and args.rdzv_id == UNNAMED_JOB:
            args.rdzv_id = uuid.uuid4().hex  # no other machine needs to know the name
        if args.master_port is None:
            args.master_port = 29500
        if args.log_dir is None:
            args.log_dir = log_dir
        replica = os.environ.get("TORCHX_REPLICA_ID", "")
        if args.rdzv_backend == "c10d" and high > 1 and replica.isdigit() and "is_host" not in args.rdzv_conf:
            # Otherwise torch compares host names, which fails for shortened names and in host networks.
            args.rdzv_conf = ",".join(filter(None, (args.rdzv_conf, f"is_host={replica == '0'}")))
        config, program, arguments = torch_run.config_from_args(args)
    except (ValueError, AssertionError, RuntimeError) as error:
        raise UserError(f"cclm launch: {error}") from None
    if not isinstance(program, str):  # torchrun returns a function only for --run-path, which no option here sets
        raise TypeError(f"torchrun returned {program!r} instead of a program")
    return TorchrunSettings(config, [program, *arguments])


def build_agent(settings: TorchrunSettings, attempts: Attempts | None, grace_seconds: int, journal: Journal) -> Agent:
    """The agent of this node.

    Args:
        attempts: the count of starts; None if the command has no place for it.
        grace_seconds: how long processes may take to save and leave before they are killed.
        journal: gets the agent's events.
    """
    config, (program, *arguments) = settings.config, settings.command
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = config.signals_to_handle
    master_addr, master_port = None, None
    if config.rdzv_backend == "static":
        master_addr, _, port = config.rdzv_endpoint.rpartition(":")
        master_port = int(port) if port else None
    meeting = build_meeting(config, journal)
    spec = WorkerSpec(
        role=config.role, local_world_size=config.nproc_per_node, entrypoint=program, args=tuple(arguments),
        rdzv_handler=meeting or build_rendezvous(config), max_restarts=config.max_restarts,
        monitor_interval=config.monitor_interval, master_addr=master_addr, master_port=master_port,
        local_addr=config.local_addr, event_log_handler=config.event_log_handler, numa_options=config.numa_options,
        duplicate_stdout_filters=config.duplicate_stdout_filters,
        duplicate_stderr_filters=config.duplicate_stderr_filters, virtual_local_rank=config.virtual_local_rank,
    )  # fmt: skip
    if config.logs_specs is None:
        raise TypeError("torchrun's options came without places for the output of processes")
    build = Agent if meeting is None else partial(MeetingAgent, handler=meeting)
    return build(
        spec, journal=journal, attempts=attempts, grace_seconds=grace_seconds, min_nodes=config.min_nodes,
        max_nodes=config.max_nodes, logs_specs=config.logs_specs, start_method=config.start_method,
        log_line_prefix_template=config.log_line_prefix_template,
    )  # fmt: skip


def build_rendezvous(config: LaunchConfig) -> RendezvousHandler:
    """torch's own rendezvous, at the one place that the options name."""
    parameters = RendezvousParameters(
        backend=config.rdzv_backend, endpoint=config.rdzv_endpoint, run_id=config.run_id, min_nodes=config.min_nodes,
        max_nodes=config.max_nodes, local_addr=config.local_addr, **config.rdzv_configs,
    )  # fmt: skip
    return rendezvous.get_rendezvous_handler(parameters)


def build_meeting(config: LaunchConfig, journal: Journal) -> MeetingHandler | None:
    """The meeting of a job whose nodes all can host it; None for any other job.

    The operator names node 0 as the endpoint, `job-worker-0:23456`. The other nodes then have names of the same form,
    and TORCHX_REPLICA_ID, or the name of the pod, says which of them this is. Elsewhere
    `--rdzv-conf peers=HOST:PORT|HOST:PORT,node=N` says both.

    Raises:
        UserError: these settings, or the port, cannot be used.
    """
    given = config.rdzv_configs
    if config.rdzv_backend != "c10d" or config.max_nodes == 1:
        return None
    if "peers" in given:
        addresses, number = parse_addresses(str(given["peers"])), str(given.get("node", ""))
    else:
        addresses = addresses_of(config.rdzv_endpoint, config.max_nodes)
        # Machines outside of Kubernetes may have such names by chance, with gaps in their numbers.
        by_name = index_of_host(socket.gethostname(), addresses) if _IN_POD in os.environ else None
        number = os.environ.get("TORCHX_REPLICA_ID", "" if by_name is None else str(by_name))
    if "peers" in given and not number.isdigit():
        raise UserError("--rdzv-conf peers=... needs the number of this node, from 0: node=N")
    if not addresses or not number.isdigit():
        return None
    # All nodes start equally many processes, so each knows the ranks of its own without a store.
    os.environ["TORCH_ELASTIC_WORKER_IDENTICAL"] = "1"
    default = Limits(config.min_nodes, config.max_nodes)
    parameters = RendezvousParameters("c10d", config.rdzv_endpoint, config.run_id, 1, 1, **given)
    interval = parameters.get_as_int("keep_alive_interval")
    limits = replace(
        default,
        last_call=float(parameters.get_as_int("last_call_timeout") or default.last_call),
        silence=float(
            interval * (parameters.get_as_int("keep_alive_max_attempt") or 3) if interval else default.silence
        ),
    )

    def notify(text: str) -> None:
        journal.emit(Notice(text))

    stay_seconds = _STAY_SECONDS if _IN_POD in os.environ else 0.0
    membership = Membership(addresses, int(number), config.run_id, limits, config.nproc_per_node, notify, stay_seconds)
    join_timeout = float(parameters.get_as_int("join_timeout") or _JOIN_TIMEOUT)
    return MeetingHandler(membership, config.run_id, join_timeout, config.local_addr)


def classify_agent_error(error: Exception) -> Failure:
    """Why the run failed where the agent itself, rather than one of its processes, raised `error`."""
    if isinstance(error, RendezvousClosedError):
        return Failure(Cause.LOST_PEER, "another node has ended this run")
    if isinstance(error, RendezvousTimeoutError):
        return Failure(Cause.LOST_PEER, "too few nodes came within the join timeout (--rdzv-conf join_timeout=SECONDS)")
    if isinstance(error, RendezvousError):
        first = str(error).splitlines()[0]
        return Failure(Cause.LOST_PEER, f"lost the node that holds the rendezvous ({first})")
    return classify_exception(error)
