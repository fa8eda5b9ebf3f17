"""Times whole training steps: forward, backward, clipping, optimizer.

    python -m benchmarks.step --plain                       the small model, 16 texts, on this machine
    python -m benchmarks.step --model base --batch 128 --device cuda --plain

Prints one line of JSON a run. `--plain` also times the published step (`benchmarks/step_plain.py`), in a process of its
own, in turns with ours: a step of one, then a step of the other. Each ratio is of two neighbouring steps, so that a
machine with other work slows both down. Where it is busy, take ratios of CPU time at `--threads 1`: a process that is
not running uses none.

FLOPs are multiplications and additions of matrix products, as torch counts them. They are compared with the rate that
the machine reached, in the same precision, in products of 1024 x 1024 matrices (4096 on a GPU) between the steps.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import random
import resource
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import seconds_of_others
from benchmarks.step_inputs import KINDS, MODELS, Texts, batch_of, made_up, read_captions
from benchmarks.step_plain import IMAGE_TEXT_LENGTH, PARALLEL_LENGTH, PlainTask, published_optimizer
from cclm.checkpoints.initial import build_model
from cclm.config.compute import ComputeConfig
from cclm.config.optimization import OptimizerConfig
from cclm.config.pretrain import ObjectiveConfig
from cclm.metrics.throughput import images_and_texts, texts_of
from cclm.tasks.pretraining_task import PretrainTask, packs_texts
from cclm.tasks.step_flops import FlopCounter
from cclm.training.device_peak import peak_flops
from cclm.training.environment import autocast, uses_bfloat16
from cclm.training.optimizer import build_optimizer

BATCHES = 4
"""Different batches of each kind, taken in turn."""


class Cost(NamedTuple):
    """What one step took, seconds."""

    wall: float
    cpu: float


class Variant:
    """A model with its optimizer, and batches of each kind. Lives in a process of its own."""

    def __init__(self, args: argparse.Namespace, texts: Texts, *, plain: bool) -> None:
        self.device, self.plain = torch.device(args.device), plain
        self.precision = "float32" if plain and self.device.type == "cpu" else args.precision
        self.config = config = MODELS[args.model]
        model = build_model(config, seed=1)
        compute = ComputeConfig(accumulate=args.accumulate, recompute_layers=args.recompute_layers)
        self.packs = not plain and packs_texts(compute, self.device)
        self.task: nn.Module = PlainTask(model) if plain else PretrainTask(model, ObjectiveConfig(), compute)
        self.task.to(self.device)
        build = published_optimizer if plain else build_optimizer
        self.optimizer = build(self.task, OptimizerConfig())
        self.batches = {
            kind: [batch_of(kind, texts, config, args.batch, seed).to(self.device) for seed in range(BATCHES)]
            for kind in args.kinds
        }
        self.generator = torch.Generator(self.device)
        self.done = 0

    def losses(self, kind: str, number: int) -> dict[str, float]:
        """Losses of a batch before any step, with nothing dropped."""
        self.task.eval()
        self.generator.manual_seed(number)
        with torch.no_grad():
            found = self.task(self.batches[kind][number], self.generator)
        return {name: loss.item() for name, loss in found.items()}

    def step(self, kind: str, number: int) -> Cost:
        """Train a batch."""
        batch = self.batches[kind][number % BATCHES]
        self.task.train()
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        self._wait()
        wall, cpu = time.perf_counter(), time.process_time()
        torch.manual_seed(number)
        self.generator.manual_seed(number)
        with autocast(self.precision, self.device):
            losses = self.task(batch, self.generator)
        torch.autograd.backward(torch.stack(list(losses.values())).sum())
        nn.utils.clip_grad_norm_(parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._wait()
        return Cost(time.perf_counter() - wall, time.process_time() - cpu)

    def flops(self, kind: str) -> int:
        """Matrix products of a step, mean of all batches."""
        total = 0
        self.task.train()
        for batch in self.batches[kind]:
            with FlopCounterMode(display=False) as counter, autocast(self.precision, self.device):
                losses = self.task(batch, self.generator.manual_seed(0))
                torch.autograd.backward(torch.stack(list(losses.values())).sum())
            total += counter.get_total_flops()
            self.optimizer.zero_grad(set_to_none=True)
        return total // BATCHES

    def real_flops(self, kind: str) -> float:
        """Matrix products that the model asks for, with texts of their own lengths; mean of all batches."""
        counter = FlopCounter(self.task, self.config, processes=1)
        return statistics.mean(counter.count_real(batch.to("cpu")) for batch in self.batches[kind])

    def peak_rate(self) -> float | None:
        """Matrix products a second that the GPU's vendor states for this precision; None on a CPU."""
        return peak_flops(self.device, uses_bfloat16=uses_bfloat16(self.precision, self.device))

    def matrix_rate(self) -> float:
        """Matrix products a second in this precision, FLOP/s, best of several."""
        side = 4096 if self.device.type == "cuda" else 1024
        with autocast(self.precision, self.device) as context:
            dtype = torch.bfloat16 if getattr(context, "_enabled", False) else torch.float32
        left, right = (torch.randn(side, side, device=self.device, dtype=dtype) for _ in range(2))
        best = float("inf")
        for _ in range(10):
            self._wait()
            began = time.perf_counter()
            torch.mm(left, right)
            self._wait()
            best = min(best, time.perf_counter() - began)
        return 2 * side**3 / best

    def tokens(self, kind: str) -> dict[str, float]:
        """Text tokens of a step, means of all batches: real ones, and those that are computed."""
        real = computed = 0
        for batch in self.batches[kind]:
            length = max(text.data.shape[1] for text in texts_of(batch))  # all of a step are padded to the longest
            if self.plain:
                length = PARALLEL_LENGTH if kind == "texts" else IMAGE_TEXT_LENGTH
            for text in texts_of(batch):
                assert text.lengths is not None
                real += int(text.lengths.sum())
                computed += int(text.lengths.sum()) if self.packs else len(text) * length
        return {"real": real / BATCHES, "computed": computed / BATCHES}

    def samples(self, kind: str) -> int:
        """Texts of a batch."""
        return images_and_texts(self.batches[kind][0]).texts

    def peak_memory(self) -> int:
        """Bytes: the largest part of this process in memory, or the largest part of the GPU's memory."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def texts_from(args: argparse.Namespace) -> Texts:
    """The texts that the options name."""
    vocabulary = MODELS[args.model].text.vocab_size
    if args.captions is None:
        return made_up(vocabulary, random.Random(0))
    return read_captions(args.captions, args.tokenizer, vocabulary)


def serve(connection: Connection, args: argparse.Namespace, texts: Texts, plain: bool) -> None:
    """Answer calls of a Variant's methods until the other end says None."""
    torch.set_num_threads(args.threads)
    variant = Variant(args, texts, plain=plain)
    while (call := connection.recv()) is not None:
        name, *values = call
        connection.send(getattr(variant, name)(*values))


class Remote:
    """A Variant in another process."""

    def __init__(self, args: argparse.Namespace, texts: Texts, *, plain: bool) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, args, texts, plain), daemon=True)
        self._process.start()
        theirs.close()

    def call(self, name: str, *values: Any) -> Any:
        """Call a method there, and wait for its result."""
        self._connection.send((name, *values))
        return self._connection.recv()

    def close(self) -> None:
        self._connection.send(None)
        self._process.join()


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Time all kinds of step."""
    texts = texts_from(args)  # once: the tokenizer's training gives other pieces every time
    ours = Remote(args, texts, plain=False)
    plain = Remote(args, texts, plain=True) if args.plain else None
    variants = {"ours": ours} if plain is None else {"ours": ours, "plain": plain}
    result: dict[str, Any] = {}
    others, began = seconds_of_others(), time.perf_counter()
    if plain is not None and args.device == "cpu":  # before the first update
        for kind in args.kinds:
            check_equal(kind, ours.call("losses", kind, 0), plain.call("losses", kind, 0))
    for kind in args.kinds:
        costs: dict[str, list[Cost]] = {name: [] for name in variants}
        rates: dict[str, list[float]] = {name: [] for name in variants}
        for number in range(args.warm_up + args.rounds):
            for name, variant in variants.items():
                cost = variant.call("step", kind, number)
                if number >= args.warm_up:
                    costs[name].append(cost)
                    rates[name].append(variant.call("matrix_rate"))
        result[kind] = {
            name: summary(variant, kind, costs[name], max(rates[name]), flops=not args.no_flops)
            for name, variant in variants.items()
        }
        if plain is not None:
            result[kind]["ratio"] = ratios(costs["plain"], costs["ours"])
    for name, variant in variants.items():
        result.setdefault("peak_memory_bytes", {})[name] = variant.call("peak_memory")
    busy = (seconds_of_others() - others) / (time.perf_counter() - began)
    for variant in variants.values():
        variant.close()
    return {"busy_cores_of_others": round(busy, 2), **result}


def check_equal(kind: str, ours: dict[str, float], plain: dict[str, float]) -> None:
    """Raises SystemExit if both ways do not compute the same losses."""
    for name, loss in plain.items():
        if abs(ours[name] - loss) > 1e-4 * max(1.0, abs(loss)):
            raise SystemExit(f"{kind}: {name} is {ours[name]} here and {loss} as published")


def summary(variant: Remote, kind: str, costs: list[Cost], rate: float, *, flops: bool) -> dict[str, Any]:
    """The row of one variant."""
    walls, samples = [cost.wall for cost in costs], variant.call("samples", kind)
    tokens, median = variant.call("tokens", kind), statistics.median(cost.wall for cost in costs)
    row: dict[str, Any] = {
        "wall_s": spread(walls),
        "cpu_s": spread([cost.cpu for cost in costs]),
        "samples_per_s": round(samples / median, 2),
        "real_tokens_per_s": round(tokens["real"] / median),
        "computed_tokens_per_s": round(tokens["computed"] / median),
        "matrix_rate_gflops": round(rate / 1e9),
        "real_flops": round(variant.call("real_flops", kind)),
    }
    if (peak := variant.call("peak_rate")) is not None:
        row["part_of_peak"] = round(row["real_flops"] / median / peak, 3)
    if flops:
        row["flops"] = variant.call("flops", kind)
        row["part_of_matrix_rate"] = round(row["flops"] / min(walls) / rate, 3)
    return row


def ratios(plain: list[Cost], ours: list[Cost]) -> dict[str, Any]:
    """How many times longer the published step takes."""
    pairs = list(zip(plain, ours, strict=True))
    return {
        "wall": spread([one.wall / other.wall for one, other in pairs]),
        "cpu": spread([one.cpu / other.cpu for one, other in pairs]),
        "best_cpu": round(min(one.cpu for one in plain) / min(one.cpu for one in ours), 2),
    }


def spread(values: list[float]) -> dict[str, float]:
    """Median, smallest and largest."""
    choose: dict[str, Callable[[list[float]], float]] = {"median": statistics.median, "min": min, "max": max}
    return {name: round(function(values), 4) for name, function in choose.items()}


def hardware(device: str) -> str:
    """The processor or the GPU in words."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    units = {"avx512_bf16": "_is_avx512_bf16_supported", "amx": "_is_amx_tile_supported"}
    features = [name for name, asked in units.items() if getattr(torch.cpu, asked, lambda: False)()]
    return " ".join([names[0] if names else platform.processor(), f"x {os.cpu_count()}", *features])


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.step", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=MODELS, default="small")
    parser.add_argument("--batch", type=int, default=16, help="texts of a batch")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=["images", "texts"])
    parser.add_argument("--precision", choices=["auto", "float32", "bfloat16"], default="float32",
                        help="of our step; on a CPU, the published one is always float32")  # fmt: skip
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--captions", type=Path, help='lines of {"caption": {language: text}}; made up if unset')
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.json of the captions; trained on them if unset")
    parser.add_argument("--accumulate", type=int, default=1, help="parts of a batch, computed one at a time (ours)")
    parser.add_argument("--recompute-layers", action="store_true", help="activation checkpointing (ours)")
    parser.add_argument("--rounds", type=int, default=5, help="steps of each kind that are timed")
    parser.add_argument("--warm-up", type=int, default=1, help="steps of each kind before them")
    parser.add_argument("--plain", action="store_true", help="time the published step, too, and print ratios")
    parser.add_argument("--no-flops", action="store_true", help="do not count FLOPs, which takes a few steps")
    args = parser.parse_args()
    if args.tokenizer is not None and args.captions is None:
        parser.error("--tokenizer needs --captions")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no GPU here")
    line = {
        **{"model": args.model, "batch": args.batch, "precision": args.precision, "threads": args.threads},
        **{"accumulate": args.accumulate, "recompute_layers": args.recompute_layers},
        **measure(args),
        **{"torch": torch.__version__, "python": platform.python_version(), "hardware": hardware(args.device)},
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
