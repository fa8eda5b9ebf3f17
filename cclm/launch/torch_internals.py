"""Every name of torch that cclm uses although torch does not document it, in one list.

torch may change them in any release, so pyproject.toml bounds its version from above. Before that bound is raised,
tests/unit/launch/test_torch_internals.py says which names the new torch has lost or changed. This file imports nothing
of torch.
"""

from __future__ import annotations

from dataclasses import dataclass

_AGENT = "torch.distributed.elastic.agent.server"
_LOCAL_AGENT = f"{_AGENT}.local_elastic_agent"
_RENDEZVOUS = "torch.distributed.elastic.rendezvous"
_PROCESSES = "torch.distributed.elastic.multiprocessing"


@dataclass(frozen=True)
class TorchInternal:
    """One name, and what cclm expects of it."""

    module: str
    """Where it is imported from."""
    name: str
    """Inside the module: NAME, or CLASS.NAME for a method or an attribute of instances."""
    user: str
    """The file of cclm that uses it."""
    parameters: tuple[str, ...] | None = None
    """Names of the parameters with which torch 2.15 defines it, `self` left out; None where they do not matter."""


INTERNALS = (
    # Methods of torchrun's agent that ours overrides: torch calls them with these arguments.
    TorchInternal(_LOCAL_AGENT, "LocalElasticAgent._rendezvous", "cclm/launch/agent.py", ("worker_group",)),
    TorchInternal(_LOCAL_AGENT, "LocalElasticAgent._start_workers", "cclm/launch/agent.py", ("worker_group",)),
    TorchInternal(_LOCAL_AGENT, "LocalElasticAgent._restart_workers", "cclm/launch/agent.py", ("worker_group",)),
    TorchInternal(_LOCAL_AGENT, "LocalElasticAgent._monitor_workers", "cclm/launch/agent.py", ("worker_group",)),
    TorchInternal(_LOCAL_AGENT, "LocalElasticAgent._shutdown", "cclm/launch/agent.py", ("death_sig", "timeout")),
    TorchInternal(_LOCAL_AGENT, "LocalElasticAgent._exit_barrier", "cclm/launch/meeting_agent.py", ()),
    # Its state.
    TorchInternal(_LOCAL_AGENT, "LocalElasticAgent._worker_group", "cclm/launch/agent.py"),
    TorchInternal(_LOCAL_AGENT, "LocalElasticAgent._remaining_restarts", "cclm/launch/agent.py"),
    TorchInternal(_LOCAL_AGENT, "LocalElasticAgent._store", "cclm/launch/agent.py"),
    TorchInternal(_LOCAL_AGENT, "LocalElasticAgent._pcontext", "cclm/launch/agent.py"),
    TorchInternal(_LOCAL_AGENT, "LocalElasticAgent._rdzv_handler", "cclm/launch/agent.py"),
    TorchInternal(f"{_AGENT}.api", "WorkerGroup.group_rank", "cclm/launch/agent.py"),
    TorchInternal(f"{_AGENT}.api", "WorkerGroup.group_world_size", "cclm/launch/agent.py"),
    TorchInternal(f"{_AGENT}.api", "WorkerGroup.workers", "cclm/launch/agent.py"),
    TorchInternal(f"{_PROCESSES}.api", "SubprocessContext.subprocess_handlers", "cclm/launch/agent.py"),
    TorchInternal(f"{_PROCESSES}.subprocess_handler", "SubprocessHandler.proc", "cclm/launch/agent.py"),
    TorchInternal(f"{_PROCESSES}.errors", "ProcessFailure.error_file_data", "cclm/launch/agent.py"),
    # The c10d rendezvous.
    TorchInternal(f"{_RENDEZVOUS}.dynamic_rendezvous", "DynamicRendezvousHandler._this_node", "cclm/launch/agent.py"),
    TorchInternal(
        f"{_RENDEZVOUS}.dynamic_rendezvous", "DynamicRendezvousHandler._state_holder", "cclm/launch/agent.py"
    ),
    TorchInternal(f"{_RENDEZVOUS}.dynamic_rendezvous", "_RendezvousState.participants", "cclm/launch/agent.py"),
    TorchInternal(
        f"{_RENDEZVOUS}.dynamic_rendezvous", "DynamicRendezvousHandler._stop_heartbeats", "cclm/launch/agent.py", ()
    ),
    TorchInternal(f"{_RENDEZVOUS}.dynamic_rendezvous", "DynamicRendezvousHandler._op_executor", "cclm/launch/agent.py"),
    TorchInternal(
        f"{_RENDEZVOUS}.dynamic_rendezvous", "_DistributedRendezvousOpExecutor.run", "cclm/launch/agent.py",
        ("state_handler", "deadline", "update_deadline"),
    ),
    TorchInternal(f"{_RENDEZVOUS}.dynamic_rendezvous", "_RendezvousExitOp", "cclm/launch/agent.py", ()),
    TorchInternal(f"{_RENDEZVOUS}.registry", "get_rendezvous_handler", "cclm/launch/torchrun.py", ("params",)),
    # torchrun's own command line.
    TorchInternal("torch.distributed.run", "parse_args", "cclm/launch/torchrun.py", ("args",)),
    TorchInternal("torch.distributed.run", "parse_min_max_nnodes", "cclm/launch/torchrun.py", ("nnodes",)),
    TorchInternal("torch.distributed.run", "config_from_args", "cclm/launch/torchrun.py", ("args",)),
    # Fields of settings that are handed on one by one: a new field would be left out without a word.
    TorchInternal(
        "torch.distributed.launcher.api", "LaunchConfig", "cclm/launch/torchrun.py",
        (
            "min_nodes", "max_nodes", "nproc_per_node", "logs_specs", "run_id", "role", "rdzv_endpoint", "rdzv_backend",
            "rdzv_configs", "rdzv_timeout", "max_restarts", "monitor_interval", "start_method",
            "log_line_prefix_template", "metrics_cfg", "local_addr", "event_log_handler", "numa_options",
            "signals_to_handle", "duplicate_stdout_filters", "duplicate_stderr_filters", "virtual_local_rank",
            "shutdown_timeout",
        ),
    ),
    TorchInternal(
        f"{_AGENT}.api", "WorkerSpec", "cclm/launch/torchrun.py",
        (
            "role", "local_world_size", "rdzv_handler", "fn", "entrypoint", "args", "max_restarts", "monitor_interval",
            "master_port", "master_addr", "local_addr", "event_log_handler", "numa_options",
            "duplicate_stdout_filters", "duplicate_stderr_filters", "virtual_local_rank",
        ),
    ),
    # Training.
    TorchInternal("torch.distributed.distributed_c10d", "_get_default_store", "cclm/distributed.py", ()),
    TorchInternal("torch.autograd", "Variable._execution_engine", "cclm/distributed.py"),
    TorchInternal("torch", "_softmax_backward_data", "cclm/model/packed_attention.py"),
    TorchInternal(
        "torch", "UntypedStorage._new_shared", "cclm/data/batches/shared_images.py", ("size", "device")
    ),
)  # fmt: skip

VARIABLES = {
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": f"{_RENDEZVOUS}.dynamic_rendezvous",
    "TORCHELASTIC_SIGNALS_TO_HANDLE": f"{_PROCESSES}.api",
    "TORCHELASTIC_ERROR_FILE": f"{_PROCESSES}.api",
    "TORCHELASTIC_RUN_ID": _LOCAL_AGENT,
    "TORCH_ELASTIC_WORKER_IDENTICAL": f"{_AGENT}.api",
}
"""Environment variables that cclm sets for torch or reads from it, and the module of torch that knows each."""
