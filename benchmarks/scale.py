"""Memory and time to the first records of a loader process's order of samples, for sources of many records.

    python -m benchmarks.scale

Each number of records is measured in a process of its own, as a loader process computes its part: 64 files of 100 kB a
record, 1024 records of a global batch, of which the process has 128. No file is read. One line of JSON each: memory of
the process above that of its imports, and seconds to the first batch and to one of a later epoch.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import time
from multiprocessing.connection import Connection

from cclm.data.stored.order import SampleOrder

FILES, BYTES, BATCH, SLOTS = 64, 100_000, 1024, 128


def measure(records: int, connection: Connection) -> None:
    """Send what one process takes."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    counts = [records // FILES] * FILES
    began, cpu = time.perf_counter(), time.process_time()
    order = SampleOrder(counts, [count * BYTES for count in counts], BATCH, 42, 0)
    order.records_of(0, range(SLOTS))
    first, first_cpu = time.perf_counter() - began, time.process_time() - cpu
    order.records_of(5 * order.num_records // BATCH, range(SLOTS))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    connection.send(
        {
            "records": order.num_records,
            "chunks": order.num_chunks,
            "seconds_to_first_batch": round(first, 2),
            "cpu_seconds_to_first_batch": round(first_cpu, 2),
            "cpu_seconds_with_another_epoch": round(time.process_time() - cpu, 2),
            "megabytes": round((peak - before) / 1024),
            "megabytes_of_the_process": round(peak / 1024),
        }
    )


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.scale", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=int, nargs="+", default=[4_000_000, 10**8, 10**9])
    args = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    for records in args.records:
        ours, theirs = context.Pipe()
        process = context.Process(target=measure, args=(records, theirs))
        process.start()
        print(json.dumps(ours.recv()), flush=True)
        process.join()


if __name__ == "__main__":
    main()
