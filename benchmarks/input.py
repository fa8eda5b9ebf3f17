"""Records a second from files to ready batches: ours, and three other ways to read, on the same files in one run.

    python -m benchmarks.input                                  local files
    python -m benchmarks.input --stores local,s3,hdfs           also from SeaweedFS and HDFS, started for it

All decode, crop, augment and tokenise with the same functions and make the same batches. They differ in how they read,
shuffle, parse and hand over. There is one loader process a core. `limit` decodes and transforms images in memory and
does nothing else, not even hand them over.

Contenders run one after the other, each in a process of its own. `limit` runs before and after each, and the result is
given as a part of their mean, since machines change their speed within minutes. A store that is started here is kept on
the last core, because a real one has machines of its own; everything that is measured, `limit` too, is on the others.
Where others use the machine, compare the records by CPU second, which count all processes of a contender. Records by
second include waiting for the store.

- ours/lines, ours/tar: `cclm.data.batches.loader`
- published: the scheme of the published code without its shell: whole files to loader processes, line by line, json,
  base64, no shuffling of records
- webdataset: tar shards, shuffle buffer of 1000 records
- datasets: Hugging Face, streaming line-JSON, shuffle buffer of 1000 records

webdataset and the published scheme read stores through our own stream of 8 MB ranges, which favours them; datasets uses
fsspec itself. Needs the extra [benchmarks].
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
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from cclm import storage

try:
    from benchmarks.input_readers import CONTENDERS, CONTENDERS_AND_LIMIT, FILES, Measurement, write_files
    from benchmarks.input_stores import Place, local, started
    from benchmarks.machine import descendants
except ModuleNotFoundError as error:
    if error.name != "benchmarks":
        raise
    raise SystemExit("start it from the folder of the repository, as: python -m benchmarks.input") from None

STORES = ("local", "s3", "hdfs")
_PATIENCE = 120  # seconds that a contender has beside the time of the measurement


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
        print(json.dumps(measure(Measurement(**json.loads(args.one)), args.seconds)))
        return
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cclm-input-")))
        written = write_files(folder, args.records, args.side)
        print(
            f"{args.records} records, {written.jpeg_bytes / args.records / 1e3:.0f} kB a JPEG of 512 x 384 px, "
            f"{args.side} px, batches of {args.batch_size}, {args.seconds:g} s each"
        )
        every = os.sched_getaffinity(0)
        for name in args.stores:
            cores = every if name == "local" or len(every) == 1 else every - {max(every)}
            place = stack.enter_context(_store(name, folder, every - cores or None))
            if name != "local":
                os.environ.update(place.environment)
                storage.reopen()
                for file in sorted(folder.glob("data/*/*")):
                    storage.put_file(str(file), storage.join(place.url, file.parent.name, file.name))
                for kind in ("lines", "tar"):
                    command = [sys.executable, "-m", "cclm", "data", "index", storage.join(place.url, kind)]
                    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            common = dict(
                url=place.url,
                store=name,
                tokenizer=written.tokenizer,
                batch_size=args.batch_size,
                side=args.side,
                workers=args.workers or min(FILES, len(cores)),
            )
            os.sched_setaffinity(0, cores)  # inherited by the processes that measure
            compare(name, args.contenders, common, args.seconds, args.rounds)
            os.sched_setaffinity(0, every)


def some_of(known: Iterable[str]) -> Callable[[str], list[str]]:
    """A type for argparse: a comma-separated list of known names."""
    known = list(known)

    def read(text: str) -> list[str]:
        names = text.split(",")
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is unknown; known are {', '.join(known)}")
        return names

    return read


def compare(name: str, contenders: list[str], common: dict, seconds: float, rounds: int) -> None:
    """Print a row for each contender: medians over the rounds.

    A part of the limit is relative to the mean of the two limits that were measured before and after the contender.
    """
    print(f"\n{name}, {common['workers']} loader process{'es' * (common['workers'] > 1)}")
    print(f"{'':14}{'records/s':>10}{'of limit':>10}{'records/CPU s':>15}{'of limit':>10}{'MB a worker':>13}")
    before = run_one({**common, "contender": "limit"}, seconds)
    for contender in contenders:
        rows: list[dict[str, float]] = []
        for _ in range(rounds):
            before = before or run_one({**common, "contender": "limit"}, seconds)
            result = run_one({**common, "contender": contender}, seconds)
            after = run_one({**common, "contender": "limit"}, seconds)
            if before is None or result is None or after is None:
                print(f"{contender:14}{'failed, see above':>20}")
                break
            limits = {f"limit_{key}": (before[key] + after[key]) / 2 for key in ("per_second", "per_cpu_second")}
            parts = {f"part_{key}": result[key] / limits[f"limit_{key}"] for key in ("per_second", "per_cpu_second")}
            rows.append({**result, **limits, **parts, "limit_mb": after["worker_mb"]})
            before = after
        if len(rows) == rounds:
            print_rows(contender, {key: statistics.median(row[key] for row in rows) for key in rows[0]})


def print_rows(contender: str, row: dict[str, float]) -> None:
    """Print the row of the limit and the row of the contender."""
    print(
        f"{'limit':14}{row['limit_per_second']:10.0f}{'':10}{row['limit_per_cpu_second']:15.0f}{'':10}{row['limit_mb']:13.0f}"
    )
    print(
        f"{contender:14}{row['per_second']:10.0f}{row['part_per_second']:10.0%}"
        f"{row['per_cpu_second']:15.0f}{row['part_per_cpu_second']:10.0%}{row['worker_mb']:13.0f}",
        flush=True,
    )


def run_one(fields: dict, seconds: float) -> dict[str, float] | None:
    """Measure one contender in a process of its own; None if it failed.

    Args:
        fields: of a Measurement.
    """
    command = [sys.executable, "-m", "benchmarks.input", "--one", json.dumps(fields), "--seconds", str(seconds)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_DATASETS_OFFLINE": "1"}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_PATIENCE + seconds)
    except subprocess.TimeoutExpired:
        print(f"{fields['contender']}: nothing within {_PATIENCE} s", file=sys.stderr)
        return None
    if done.returncode:
        print(f"{fields['contender']}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def measure(measurement: Measurement, seconds: float) -> dict[str, float]:
    """Throughput of a contender, after the batches that were prepared while its processes started."""
    counts: Iterator[int] = CONTENDERS_AND_LIMIT[measurement.contender](measurement)
    for _ in range(3 * measurement.workers):
        next(counts)
    started, used, records = time.perf_counter(), cpu_seconds(), 0
    while (passed := time.perf_counter() - started) < seconds:
        records += next(counts)
    cpu = cpu_seconds() - used
    workers = [worker_memory(pid) for pid in descendants()]
    workers = sorted(workers)[-measurement.workers :]  # the others are resource trackers and fork servers
    result = {
        "per_second": records / passed,
        "per_cpu_second": records / cpu,
        "worker_mb": sum(workers) / max(1, len(workers)) / 2**20,
    }
    del counts
    return result


def cpu_seconds() -> float:
    """User and system time of this process and of the living ones below it."""
    ticks = 0
    for pid in [os.getpid(), *descendants()]:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def worker_memory(pid: int) -> int:
    """Proportional set size of a process, bytes: a page that n processes share counts 1/n."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) << 10
    return 0


def _store(name: str, folder: Path, cores: set[int] | None) -> AbstractContextManager[Place]:
    """Place of the data. A store that is started for it is kept on `cores`; None: on all."""
    return local(folder / "data") if name == "local" else started(name, folder, cores)


if __name__ == "__main__":
    multiprocessing.set_start_method("fork")
    main()
