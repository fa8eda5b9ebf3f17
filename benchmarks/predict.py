"""Predicts how long a training step takes on a GPU, on a machine that has none.

    python -m benchmarks.predict                            the published model, 128 texts, bfloat16

The step is run on torch's meta device, which knows shapes and computes no numbers. It takes the same path as on a GPU:
texts padded to the longest, torch's memory-efficient attention. Anything in it that waited for the device would fail
here. For each operation, the FLOPs of its matrix products and the bytes that it reads and writes are counted.

Two times are given for each GPU. `limit_s` is the least: each operation takes as long as its FLOPs at the peak, or its
bytes at the peak bandwidth, whichever is longer. `predicted_s` takes 70 % of the one, 80 % of the other, and at least
5 us an operation. Those three numbers are assumptions. The published step is predicted in the same way, for a ratio.

Dtypes are those of autocast: matrix products, convolutions and attention in bfloat16, LayerNorm and softmax in float32.
What the host adds where it cannot keep up is left out.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import flop_registry

from benchmarks import step_plain
from benchmarks.step_inputs import KINDS, MODELS, batch_of, made_up
from cclm.checkpoints.initial import outline
from cclm.config.model import ModelConfig
from cclm.config.pretrain import ObjectiveConfig
from cclm.data.batches.batch import PretrainBatch
from cclm.tasks.pretraining_task import PretrainTask
from cclm.tasks.step_flops import FlopCounter
from cclm.training.device_peak import PEAKS

BANDWIDTH = {"A100": 2.039e12, "H100": 3.35e12, "H200": 4.8e12}
"""Bytes a second, from the data sheets of the models with 80, 80 and 141 GB."""
REACHED_PEAK, REACHED_BANDWIDTH, LEAST_SECONDS = 0.7, 0.8, 5e-6
BYTES_OF_A_PARAMETER = 40
"""AdamW reads four float32 numbers and writes three (28); clipping reads one, then reads and writes one (12)."""
_LOW = (F.linear, F.conv2d, torch.matmul, Tensor.matmul, Tensor.__matmul__, F.scaled_dot_product_attention)
_HIGH = (F.layer_norm, F.softmax, torch.softmax, Tensor.softmax)
_READ_IN_PART = ("embedding", "index", "index_select", "gather")
"""Operations that read only those rows of a tensor that they return."""


class Operation(NamedTuple):
    """One operation of a step."""

    name: str
    flops: float
    bytes: float


class Operations(TorchDispatchMode):
    """Notes each operation inside the block that does more than to view its input."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[Operation] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        packet, name = func._overloadpacket, func._overloadpacket.__name__
        if not func.is_view and not name.startswith(("empty", "new_empty", "detach", "_unsafe_view")):
            flops = flop_registry[packet](*args, **kwargs, out_val=result) if packet in flop_registry else 0
            written = _bytes(result)
            read = written if name in _READ_IN_PART else _bytes((args, kwargs))
            self.done.append(Operation(name, flops, read + written))
        return result


def _bytes(values: Any) -> int:
    """Of all tensors in `values`. What is repeated by a stride of 0 is read once."""
    tensors = {id(leaf): leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)}
    return sum(min(each.numel() * each.itemsize, each.untyped_storage().nbytes()) for each in tensors.values())


class Autocast(TorchFunctionMode):
    """Gives operations the dtypes that autocast gives them on a GPU; it does not know the meta device."""

    def __init__(self) -> None:
        super().__init__()
        self._copies: dict[int, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _LOW or func in _HIGH:
            dtype = torch.bfloat16 if func in _LOW else torch.float32
            args, kwargs = tree_map(lambda value: self._cast(value, dtype), (args, kwargs))
        if func is F.scaled_dot_product_attention:
            return _efficient_attention(*args, **kwargs)
        return func(*args, **kwargs)

    def _cast(self, value: Any, dtype: torch.dtype) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.dtype == dtype:
            return value
        if not isinstance(value, nn.Parameter):
            return value.to(dtype)
        if id(value) not in self._copies:  # copies of weights are made once
            self._copies[id(value)] = value.to(dtype)
        return self._copies[id(value)]


def _efficient_attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
    is_causal: bool = False,
) -> Tensor:  # fmt: skip
    bias = None
    if attn_mask is not None:
        mask = torch.empty_like(attn_mask, dtype=query.dtype) if attn_mask.dtype == torch.bool else attn_mask
        bias = mask.expand(*query.shape[:-1], key.shape[-2])
    found: Tensor = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, bias, torch.is_grad_enabled(), dropout_p, is_causal
    )[0]
    return found


@contextlib.contextmanager
def as_on_a_gpu() -> Iterator[Operations]:
    """Let the meta device take what a GPU takes, and note what is done.

    What waits for the device in the published step is replaced, since no number is known here.
    """
    with (
        mock.patch.object(torch, "autocast", lambda *_, **__: contextlib.nullcontext()),
        mock.patch.object(torch, "is_autocast_enabled", lambda *_: True),
        mock.patch.object(torch, "get_autocast_dtype", lambda *_: torch.bfloat16),
        mock.patch.object(step_plain, "_rows", _any_rows),
        mock.patch.object(step_plain, "masked_places", _any_places),
        Autocast(),
        Operations() as noted,
    ):
        yield noted


def _any_rows(texts: step_plain.Padded, rows: Tensor) -> step_plain.Padded:
    """As many rows as the step asks for, one after the other; which ones is not known here."""
    return step_plain.Padded(*(torch.stack([part[0] for _ in range(len(rows))]) for part in texts))


def _any_places(masked: Any, length: int, places: int) -> step_plain.MaskedPlaces:
    """Places of the published number; which ones is not known here."""
    numbers = torch.zeros(len(masked.tokens), places, dtype=torch.int64, device=masked.tokens.device)
    return step_plain.MaskedPlaces(step_plain.padded(masked.tokens, length), numbers, numbers)


def operations(task: nn.Module, batch: PretrainBatch) -> list[Operation]:
    """What a forward and a backward pass of a task on the meta device do."""
    with as_on_a_gpu() as noted:
        losses = task.train()(batch, None)
        torch.autograd.backward(torch.stack([loss.float() for loss in losses.values()]).sum())
    return noted.done


def predicted(model: ModelConfig, kind: str, size: int) -> dict[str, Any]:
    """FLOPs, bytes, and times of a step of one kind, here and as published."""
    batch = batch_of(kind, made_up(model.text.vocab_size, random.Random(0)), model, size, seed=0)
    row: dict[str, Any] = {"kind": kind}
    seconds: dict[str, dict[str, float]] = {}
    for name in ("ours", "plain"):
        cclm = outline(model)
        parameters = sum(parameter.numel() for parameter in cclm.parameters())
        task = PretrainTask(cclm, ObjectiveConfig()) if name == "ours" else step_plain.PlainTask(cclm)
        if name == "ours":
            row |= {"parameters": parameters, "real_flops": FlopCounter(task, model, 1).count_real(batch)}
        done = operations(task, batch.to("meta"))
        done.append(Operation("optimizer", 0, BYTES_OF_A_PARAMETER * parameters))
        total, moved = sum(each.flops for each in done), sum(each.bytes for each in done)
        row[name] = {"flops": total, "bytes": moved, "operations": len(done), "part_of_bytes": _parts(done)}
        for gpu, bandwidth in BANDWIDTH.items():
            peak = (PEAKS[gpu].bfloat16 or 0) * 1e12
            limit = _seconds(done, peak, bandwidth)
            likely = _seconds(done, peak * REACHED_PEAK, bandwidth * REACHED_BANDWIDTH, LEAST_SECONDS)
            row[name][gpu] = {
                "limit_s": round(limit, 4),
                "predicted_s": round(likely, 4),
                "part_of_peak_at_limit": round(row["real_flops"] / peak / limit, 3),
                "part_of_peak_predicted": round(row["real_flops"] / peak / likely, 3),
                "products_alone_s": round(total / peak, 4),
            }
            seconds.setdefault(gpu, {})[name] = likely
    row["predicted_ratio"] = {gpu: round(each["plain"] / each["ours"], 2) for gpu, each in seconds.items()}
    return row


def _seconds(done: list[Operation], flops: float, bandwidth: float, least: float = 0.0) -> float:
    """How long all operations take, each as long as the slower of its products (FLOP/s) and its bytes (a second)."""
    return sum(max(each.flops / flops, each.bytes / bandwidth, least) for each in done)


def _parts(done: list[Operation]) -> dict[str, float]:
    """The part of all bytes that each of the six kinds of operation with most bytes moves."""
    moved: Counter[str] = Counter()
    for each in done:
        moved[each.name] += int(each.bytes)
    return {name: round(each / moved.total(), 2) for name, each in moved.most_common(6)}


def main() -> None:
    """Parse, count, print."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=MODELS, default="base")
    parser.add_argument("--batch", type=int, default=128, help="texts of a batch")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=["images", "texts"])
    args = parser.parse_args()
    for kind in args.kinds:
        print(json.dumps({"model": args.model, "batch": args.batch, **predicted(MODELS[args.model], kind, args.batch)}))


if __name__ == "__main__":
    main()
