"""`cclm launch`: run a command of cclm on several processes and machines, with exit codes schedulers understand."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from functools import cache, partial

from cclm.cli.launch_parts import Part
from cclm.cli.metrics import add_metrics_argument, metrics_port_of
from cclm.cli.parser import Subparsers
from cclm.config.paths import expand_home
from cclm.errors import UserError
from cclm.events import Ended, Journal
from cclm.launch.attempts import DEFAULT_MAX_ATTEMPTS
from cclm.launch.causes import Cause, exit_code_table
from cclm.launch.termination_log import TerminationLog
from cclm.launch_contract import EXIT_USER_ERROR, MAX_ATTEMPTS, UNNAMED_JOB

DESCRIPTION = """\
Run a command of cclm under torchrun's elastic agent: on all GPUs of a machine, and on several machines.

Options are torchrun's, and like torchrun's they may come from PET_* variables, as training operators set them.
What fails for a passing reason is started again from the newest checkpoint, here up to --max-restarts times and then,
by its exit code, by the scheduler; what cannot succeed ends at once, with one sentence.
"""

EPILOG = f"""\
exit codes: 128 and above may be tried again, below must not (restartPolicy: ExitCode of training operators)
{exit_code_table()}

preflight: before anything starts, this machine is checked: the GPUs that it should have and their health, EFA where
FI_PROVIDER asks for it, room in /dev/shm, output folders, data files. What is wrong with the machine ends with 203,
what is wrong with the config with 2. Several machines measure the network between them before they train.

attempts: each start is counted in attempts-COMMAND.json beside the checkpoints. A newer checkpoint starts the count
anew; SIGTERM, Ctrl-C, nodes that come or leave and your mistakes (exit code 2) do not count. Jobs are told apart by
--rdzv-id, or the scheduler's id.

waits: of starts in a row that got no further, the second follows at once, the third after 10 s, the fourth after 20 s,
and so on up to 5 minutes. What SIGTERM or the loss of a node ends goes on at once.

SIGTERM (to this process, its group, or one training process): training finishes its step, saves, and leaves within
--shutdown-timeout; give the scheduler a longer grace period than that.

examples:
  cclm launch --nproc-per-node 2 -- pretrain configs/demo/pretrain.yaml
  cclm launch --nproc-per-node gpu -- pretrain configs/Pretrain_4m.yaml optimizer.lr=2e-4

  elastic, one to two machines (give the same command on both; the second may come and go):
  cclm launch --nnodes 1:2 --nproc-per-node 8 --max-restarts 3 --rdzv-id run7 --rdzv-endpoint host1:29500 -- \\
      pretrain configs/Pretrain_4m.yaml
"""

TORCHRUN_OPTIONS = {
    "nnodes": "number of machines, or MIN:MAX for a run that goes on while machines come and leave (default: 1)",
    "nproc-per-node": "processes on each machine: a number, gpu, cpu or auto (default: 1)",
    "max-restarts": "restarts after failures within this launch, on each machine (default: 0)",
    "rdzv-endpoint": "HOST:PORT where the machines meet; HOST runs the store",
    "rdzv-id": "name of the job, the same on all machines and at each start of it",
    "rdzv-backend": "how machines meet (default c10d)",
    "rdzv-conf": "settings of the rendezvous, as join_timeout=1800,last_call_timeout=60",
    "node-rank": "without rendezvous: number of this machine",
    "master-addr": "without rendezvous: address of machine 0",
    "master-port": "without rendezvous: port of machine 0",
    "local-addr": "address of this machine",
    "monitor-interval": "seconds between looks at the processes",
    "log-dir": "folder for what --tee and --redirects write",
    "tee": "streams to copy to files: 0 none, 1 stdout, 2 stderr, 3 both",
    "redirects": "streams to write to files instead of the terminal",
}
"""Options that torchrun gets as they are, and their help."""


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand and its options."""
    parser = subparsers.add_parser(
        "launch",
        help="run a command on several processes and machines",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="cclm launch [options] [--] COMMAND ...",
        allow_abbrev=False,
    )
    for name, text in TORCHRUN_OPTIONS.items():
        read = expand_home if name == "log-dir" else str
        parser.add_argument(f"--{name}", type=read, metavar="X", help=text)
        if "-" in name:  # torchrun takes both
            parser.add_argument(f"--{name.replace('-', '_')}", type=read, help=argparse.SUPPRESS)
    parser.add_argument("--standalone", action="store_true", help="this machine only (the default)")
    parser.add_argument(
        "--shutdown-timeout", type=_positive, default=30, metavar="S",
        help="seconds that processes get to save and leave before they are killed (default %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--collective-timeout", type=_positive, default=600, metavar="S",
        help="seconds that a process waits for another one before it gives up (default %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--max-attempts", type=_positive, default=os.environ.get(MAX_ATTEMPTS, DEFAULT_MAX_ATTEMPTS), metavar="N",
        help="starts in a row without a newer checkpoint before it gives up for good "
        f"({MAX_ATTEMPTS}; default: {DEFAULT_MAX_ATTEMPTS})",
    )  # fmt: skip
    checks = parser.add_mutually_exclusive_group()
    checks.add_argument(
        "--no-preflight", action="store_true",
        help="start without checks of GPUs, shared memory, output, inputs and network",
    )  # fmt: skip
    checks.add_argument("--preflight-only", action="store_true", help="make these checks and start nothing")
    add_metrics_argument(parser)
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND ...", help="a command of cclm")
    parser.set_defaults(func=launch)


def launch(args: argparse.Namespace) -> int:
    """Run the command on the processes of this machine; returns the exit code.

    Raises:
        UserError: the options, or the command's config, cannot be used. The termination log of the pod has it, too.
    """
    try:
        return _launch(args)
    except UserError as error:
        TerminationLog().handle(Ended(EXIT_USER_ERROR, Cause.USER_ERROR.name, str(error), may_retry=False))
        raise


def _launch(args: argparse.Namespace) -> int:
    from cclm.cli.launch_parts import parts_of
    from cclm.cli.launch_preflight import preflight_of
    from cclm.launch.console import ConsoleSink
    from cclm.launch.launcher import LaunchOptions
    from cclm.launch.launcher import launch as run
    from cclm.launch.metrics_sink import serving_metrics
    from cclm.training.run_folder import is_worked_in_by_others

    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command or command[0] == "launch":
        raise UserError("cclm launch needs a command to run, for example: cclm launch -- pretrain CONFIG")
    journal = Journal([ConsoleSink(), TerminationLog()])
    # Configs and tasks may lie in a store that is away, so the endpoint is open before they are read.
    with serving_metrics(metrics_port(args, command), journal) as endpoint:
        # Mistakes in the command show here: once, and before any process starts.
        parts = parts_of(command)
        # Batch sizes of published configs are per process. The launcher says how many there are before it asks for
        # these.
        final_parts = cache(partial(parts_of, command))
        preflight = None
        if not args.no_preflight:
            preflight = preflight_of(final_parts, is_all=args.preflight_only)
        options = LaunchOptions(
            command=command,
            torchrun_options=_torchrun_options(args),
            folders=parts[0].folders,
            later_folders=[part.folders for part in parts[1:]],
            run_id=_job_id(args),
            is_folder_taken=partial(is_worked_in_by_others, *parts[0].folders, launcher=os.getpid()),
            max_attempts=args.max_attempts,
            shutdown_timeout=args.shutdown_timeout,
            collective_timeout=args.collective_timeout,
            starts_anew=getattr(parts[0].arguments, "resume", None) == "never",
            check_processes=lambda processes: check_processes(final_parts(), processes),
            preflight=preflight,
        )
        return run(options, journal, endpoint)


def metrics_port(args: argparse.Namespace, command: Sequence[str]) -> int | None:
    """The port of this launcher's endpoint: its own option counts, else that of the command, else the variable.

    Args:
        args: of `cclm launch`.
        command: of cclm, which it is to run.

    Raises:
        UserError: it is no port, both options are given and differ, or the command is none.
    """
    from cclm.cli.main import parse

    arguments = parse(command)
    of_command = getattr(arguments, "metrics_port", None)
    if None not in (args.metrics_port, of_command) and args.metrics_port != of_command:
        raise UserError(
            f"--metrics-port {args.metrics_port} and, behind the command, --metrics-port {of_command}: the launcher "
            "serves the metrics of all processes at one port; leave one of the two out"
        )
    return metrics_port_of(args if of_command is None else arguments)


def check_processes(parts: Sequence[Part], processes: int) -> None:
    """Raise UserError if a command that trains cannot divide its batches among so many processes."""
    from cclm.config.batches import check_divisible
    from cclm.config.pretrain import PretrainConfig
    from cclm.data.stored.order import slots_of_rank

    for part in parts:
        if part.name in ("pretrain", "finetune"):
            if isinstance(part.config, PretrainConfig):
                check_divisible(part.config, processes)
            elif size := getattr(getattr(part.config, "training", None), "batch_size", None):
                slots_of_rank("training.batch_size", size, 0, processes)


def _torchrun_options(args: argparse.Namespace) -> list[str]:
    """The options for torchrun, as its command line takes them."""
    if os.environ.get("PET_STANDALONE") == "":
        del os.environ["PET_STANDALONE"]  # training operators set it to nothing, which torchrun cannot parse
    options = ["--standalone"] if args.standalone else []
    for name in TORCHRUN_OPTIONS:
        value = getattr(args, name.replace("-", "_"))
        if value is not None:
            options.append(f"--{name}={value}")
    return options


def _job_id(args: argparse.Namespace) -> str | None:
    """What tells this job from other jobs in the same folder; None if nothing does."""
    of_schedulers = (os.environ.get(name) for name in ("PET_RDZV_ID", "TORCHX_JOB_ID", "SLURM_JOB_ID"))
    return next((value for value in (args.rdzv_id, *of_schedulers) if value and value != UNNAMED_JOB), None)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value
