"""Records a second from files to ready batches: ours, and three other ways to read, on the same files in one run.

    python -m benchmarks.input                                  local files
    python -m benchmarks.input --stores local,s3,hdfs           also from SeaweedFS and HDFS, started for it

All decode, crop, augment and tokenise with the same functions and make the same batches; they differ in how they read,
shuffle, parse and hand over. One loader process a core. `limit` decodes and transforms images that lie in memory, does
nothing else, and hands nothing over. Each contender runs in a process of its own, one after the other, `limit` before
and after each, of whose mean it is a part: machines change their speed within minutes. A store that is started here is
kept on the last core, since a real one has machines of its own, and what is measured, `limit` too, on the others. Where
others use the machine, compare the column of records by CPU second, which counts all processes of a contender; records
by second include waiting for the store.

- ours/lines, ours/tar: `cclm.data.batches.loader`
- published: the scheme of the published code without its shell: whole files to loader processes, line by line, json,
  base64, no shuffling of records
- webdataset: tar shards, shuffle buffer of 1000 records
- datasets: Hugging Face, streaming line-JSON, shuffle buffer of 1000 records

Stores are read by webdataset and by the published scheme through our own stream of 8 MB ranges, which is kind to them;
datasets uses fsspec itself. Needs the extra [benchmarks].
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

from cclm import storage

try:
    from benchmarks.input_readers import CONTENDERS, CONTENDERS_AND_LIMIT, FILES, Task, write_files
    from benchmarks.input_stores import local, started
    from benchmarks.machine import descendants
except ModuleNotFoundError as error:
    if error.name != "benchmarks":
        raise
    raise SystemExit("start it from the folder of the repository, as: python -m benchmarks.input") from None

STORES = ("local", "s3", "hdfs")
_PATIENCE = 120  # seconds until a contender has to deliver


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.input", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stores", type=some_of(STORES), default="local", help="of local, s3, hdfs; comma-separated")
    parser.add_argument(
        "--contenders", type=some_of(CONTENDERS), default=",".join(CONTENDERS), help="comma-separated; default: all"
    )
    parser.add_argument("--records", type=int, default=6400)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=1, help="measurements of each, of which the median is shown")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--side", type=int, default=224, help="px of an input image")
    parser.add_argument(
        "--workers",
        type=int,
        choices=range(1, FILES + 1),
        help=f"loader processes; default: one a core that they have, {FILES} at most, as there are files",
    )
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(Task(**json.loads(args.one)), args.seconds)))
        return
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cclm-input-")))
        made = write_files(folder, args.records, args.side)
        print(
            f"{args.records} records, {made.jpeg_bytes / args.records / 1e3:.0f} kB a JPEG of 512 x 384 px, "
            f"{args.side} px, batches of {args.batch_size}, {args.seconds:g} s each"
        )
        every = os.sched_getaffinity(0)
        for name in args.stores:
            cores = every if name == "local" or len(every) == 1 else every - {max(every)}
            url, environment = stack.enter_context(_store(name, folder, every - cores or None))
            if name != "local":
                os.environ.update(environment)
                storage.reopen()
                for file in sorted(folder.glob("data/*/*")):
                    storage.put_file(str(file), storage.join(url, file.parent.name, file.name))
                for kind in ("lines", "tar"):
                    command = [sys.executable, "-m", "cclm", "data", "index", storage.join(url, kind)]
                    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            common = dict(url=url, store=name, tokenizer=made.tokenizer, batch_size=args.batch_size, side=args.side,
                          workers=args.workers or min(FILES, len(cores)))  # fmt: skip
            os.sched_setaffinity(0, cores)  # inherited by the processes that measure
            compare(name, args.contenders, common, args.seconds, args.rounds)
            os.sched_setaffinity(0, every)


def some_of(known: Iterable[str]) -> Callable[[str], list[str]]:
    """What reads a list of names, comma-separated, for argparse."""
    known = list(known)

    def read(text: str) -> list[str]:
        names = text.split(",")
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is unknown; known are {', '.join(known)}")
        return names

    return read


def compare(name: str, contenders: list[str], common: dict, seconds: float, rounds: int) -> None:
    """Print a row a contender: medians over the rounds, parts of the limit those of the two limits around each."""
    print(f"\n{name}, {common['workers']} loader process{'es' * (common['workers'] > 1)}")
    print(f"{'':14}{'records/s':>10}{'of limit':>10}{'records/CPU s':>15}{'of limit':>10}{'MB a worker':>13}")
    before = run_one({**common, "contender": "limit"}, seconds)
    for contender in contenders:
        found: list[dict[str, float]] = []
        for _ in range(rounds):
            before = before or run_one({**common, "contender": "limit"}, seconds)
            result = run_one({**common, "contender": contender}, seconds)
            after = run_one({**common, "contender": "limit"}, seconds)
            if before is None or result is None or after is None:
                print(f"{contender:14}{'failed, see above':>20}")
                break
            limits = {f"limit_{key}": (before[key] + after[key]) / 2 for key in ("per_second", "per_cpu_second")}
            parts = {f"part_{key}": result[key] / limits[f"limit_{key}"] for key in ("per_second", "per_cpu_second")}
            found.append({**result, **limits, **parts, "limit_mb": after["worker_mb"]})
            before = after
        if len(found) == rounds:
            print_rows(contender, {key: statistics.median(row[key] for row in found) for key in found[0]})


def print_rows(contender: str, row: dict[str, float]) -> None:
    print(
        f"{'limit':14}{row['limit_per_second']:10.0f}{'':10}{row['limit_per_cpu_second']:15.0f}{'':10}{row['limit_mb']:13.0f}"
    )
    print(
        f"{contender:14}{row['per_second']:10.0f}{row['part_per_second']:10.0%}"
        f"{row['per_cpu_second']:15.0f}{row['part_per_cpu_second']:10.0%}{row['worker_mb']:13.0f}",
        flush=True,
    )


def run_one(task: dict, seconds: float) -> dict[str, float] | None:
    """Measure one contender in a fresh process; None if it failed."""
    command = [sys.executable, "-m", "benchmarks.input", "--one", json.dumps(task), "--seconds", str(seconds)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_DATASETS_OFFLINE": "1"}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_PATIENCE + seconds)
    except subprocess.TimeoutExpired:
        print(f"{task['contender']}: nothing within {_PATIENCE} s", file=sys.stderr)
        return None
    if done.returncode:
        print(f"{task['contender']}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def measure(task: Task, seconds: float) -> dict[str, float]:
    """Throughput of a contender between two moments of its steady state."""
    counts: Iterator[int] = CONTENDERS_AND_LIMIT[task.contender](task)
    for _ in range(3 * task.workers):  # what was prepared while processes started
        next(counts)
    started, used, records = time.perf_counter(), cpu_seconds(), 0
    while (passed := time.perf_counter() - started) < seconds:
        records += next(counts)
    cpu = cpu_seconds() - used
    workers = [worker_memory(pid) for pid in descendants()]
    workers = sorted(workers)[-task.workers :]  # without resource trackers and servers of forks
    result = {
        "per_second": records / passed,
        "per_cpu_second": records / cpu,
        "worker_mb": sum(workers) / max(1, len(workers)) / 2**20,
    }
    del counts
    return result


def cpu_seconds() -> float:
    """User and system time of this process and those below it that live."""
    ticks = 0
    for pid in [os.getpid(), *descendants()]:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def worker_memory(pid: int) -> int:
    """Proportional set size of a process, bytes: shared pages are shared out."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) << 10
    return 0


def _store(name: str, folder: Path, cores: set[int] | None):
    """A context of (URL of the data, environment). A store is kept on `cores`; None: anywhere."""
    return local(folder / "data") if name == "local" else started(name, folder, cores)


if __name__ == "__main__":
    multiprocessing.set_start_method("fork")
    main()
