"""The loop on a task of a few numbers: order of work, exact resume, divergence, and SIGTERM."""

import json
import os
import signal
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from cclm.checkpoints.find import newest_checkpoint
from cclm.checkpoints.load import load_model, load_optimizer
from cclm.config.output import CheckpointConfig
from cclm.config.pretrain import TrainingConfig
from cclm.data.stored.quarantine import ReadCount
from cclm.errors import UserError
from cclm.events import Interval, Journal, UpdatesSkipped, Worked
from cclm.metrics.report import Report
from cclm.training.divergence import NonFiniteLossError
from cclm.training.loop import Run, fit
from cclm.training.plan import Plan
from cclm.training.run import _fit_and_finish
from tests.checkpoint_files import save_checkpoint

CPU = torch.device("cpu")


@dataclass(frozen=True)
class NumberBatch:
    kind: str
    index: int
    images: Tensor
    """(B, 3, 2, 2)"""

    def to(self, device, non_blocking=False):
        return replace(self, images=self.images.to(device, non_blocking=non_blocking))


class PlainSource:
    """Batch i of a kind is drawn from i alone."""

    num_records = 1000

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.read, self.skipped = 100, {"broken": 1}

    def batches(self, start):
        while True:
            drawn = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(start))
            yield NumberBatch(self.kind, start, drawn)
            start += 1


class NumberSource(PlainSource):
    """A source that skips broken records."""

    def refuse_too_many_broken(self, now, before):
        assert now == ReadCount(100, 1)
        assert before == (ReadCount(900, 2) if self.kind == "regions" else ReadCount())


class NumberTask(nn.Module):
    """Two layers, dropout, noise from the generator; remembers what it saw. `texts` leaves `head` without gradient."""

    def __init__(self, poison: tuple[str, int] | None = None) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.body = nn.Linear(12, 8)
        self.head = nn.Linear(8, 1)
        self.temperature = nn.Parameter(torch.tensor(0.5))
        self.seen: list[tuple[str, int]] = []
        self.poison = poison

    def forward(self, batch, generator):
        self.seen.append((batch.kind, batch.index))
        hidden = nn.functional.dropout(self.body(batch.images.flatten(1)), 0.3, self.training)
        hidden = hidden + torch.randn(hidden.shape, generator=generator)
        losses = {"loss_size": hidden.square().mean() * self.temperature}
        if batch.kind != "texts":
            losses["loss_head"] = self.head(hidden).square().mean()
        if self.poison == (batch.kind, batch.index):
            losses["loss_size"] = losses["loss_size"] * float("nan")
        return losses


def make_run(folder: Path, *, total=12, start_from=None, task=None, weights=None, **training) -> tuple[Run, int]:
    task = task or NumberTask()
    names = [name for name, _ in task.named_parameters()]
    optimizer = torch.optim.AdamW([{"params": list(task.parameters()), "names": names, "lr": 0.05}], fused=True)
    start = 0
    if start_from is not None:
        checkpoint = newest_checkpoint([start_from], pytest.fail)
        load_model(checkpoint, task)
        load_optimizer(checkpoint, optimizer)
        start = checkpoint.step
    journal = Journal()
    Report(journal, folder, is_first=True, total=total, start=start).forget_after(start)
    run = Run(
        task=task,
        loss_weights={"loss_size": 1.0, "loss_head": 1.0} | (weights or {}),
        optimizer=optimizer,
        plan=Plan(seed=3, texts=0.5, images_mono=0.3, regions=0.5),
        sources={kind: NumberSource(kind) for kind in ("texts", "images_mono", "images", "regions")},
        training=TrainingConfig(**{"log_every": 5, **training}),
        checkpoints=CheckpointConfig(save_minutes=None),
        clip_grad_norm=1.0,
        total_steps=total,
        warmup_steps=3,
        seed=3,
        device=CPU,
        journal=journal,
        save=lambda done: save_checkpoint(folder, done, task, optimizer, {}),
        evaluate=None,
        read_before={"regions": ReadCount(900, 2)},
    )
    return run, start


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_resumed_run_equals_the_uninterrupted_one_bit_for_bit(tmp_path):
    whole, _ = make_run(tmp_path / "whole", save_every=5, log_every=1)
    assert fit(whole, 0) == 12
    whole_seen = whole.task.seen

    first, _ = make_run(tmp_path / "parts", save_every=5, log_every=1)
    stopped = replace(first, save=StopAfter(first.save, step=5))
    assert fit(stopped, 0) == 6  # the signal came after step 5 was judged
    second, start = make_run(tmp_path / "parts", start_from=tmp_path / "parts", save_every=5, log_every=1)
    assert start == 6
    assert fit(second, start) == 12

    assert first.task.seen + second.task.seen == whole_seen
    for mine, theirs in zip(whole.task.parameters(), second.task.parameters(), strict=True):
        assert torch.equal(mine, theirs)
        for slot, value in whole.optimizer.state[mine].items():
            assert torch.equal(value, second.optimizer.state[theirs][slot])
    timeless = [{k: v for k, v in line.items() if "second" not in k} for line in metrics(tmp_path / "parts")]
    assert timeless == [{k: v for k, v in line.items() if "second" not in k} for line in metrics(tmp_path / "whole")]


class StopAfter:
    """Saves, and at one step lets a real SIGTERM come while saving."""

    def __init__(self, save, step):
        self.save, self.step = save, step

    def __call__(self, done):
        if done == self.step:
            os.kill(os.getpid(), signal.SIGTERM)
        self.save(done)


def test_too_many_broken_records_end_the_run_where_sources_skip_them(tmp_path):
    class Broken(NumberSource):
        def refuse_too_many_broken(self, now, before):
            raise UserError(f"{now.broken} records of {self.kind} are broken")

    def fit_with(source):
        run, _ = make_run(tmp_path, total=5)
        return fit(replace(run, sources={**run.sources, "images": source}), 0)

    with pytest.raises(UserError, match="1 records of images are broken"):
        fit_with(Broken("images"))
    assert fit_with(PlainSource("images")) == 5


def test_sigterm_finishes_the_step_saves_and_leaves(tmp_path):
    task = NumberTask()
    run, _ = make_run(tmp_path, task=task, total=50)
    task.register_forward_hook(lambda *_: os.kill(os.getpid(), signal.SIGTERM) if len(task.seen) == 4 else None)
    done = fit(run, 0)
    assert 0 < done < 12
    assert newest_checkpoint([tmp_path], pytest.fail).step == done
    assert metrics(tmp_path)[-1]["step"] == done
    expected = sum(run.plan.batches_before(done).values())
    assert len(task.seen) == expected  # the outer step was finished, and no other begun
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_sigterm_in_the_evaluation_leaves_at_once_and_loses_nothing(tmp_path):
    run, _ = make_run(tmp_path, total=50, evaluate_every=3)
    reached = []

    def evaluate(done):
        reached.append(done)
        os.kill(os.getpid(), signal.SIGTERM)
        reached.append("the end")

    with pytest.raises(SystemExit) as end:
        fit(replace(run, evaluate=evaluate), 0)
    assert (end.value.code, reached) == (143, [3])
    assert newest_checkpoint([tmp_path], pytest.fail).step == 3


def test_sigterm_while_loaders_start_leaves_at_once(tmp_path):
    run, _ = make_run(tmp_path)

    def batches(start):
        os.kill(os.getpid(), signal.SIGTERM)
        yield from ()

    run.sources["images"].batches = batches
    with pytest.raises(SystemExit) as end:
        fit(run, 0)
    assert end.value.code == 143
    assert newest_checkpoint([tmp_path], pytest.fail) is None


def test_batches_follow_the_plan(tmp_path):
    run, _ = make_run(tmp_path)
    fit(run, 0)
    assert [kind for kind, _ in run.task.seen] == [k for step in range(12) for k in run.plan.kinds_of_step(step)]
    for kind in run.sources:
        assert [i for k, i in run.task.seen if k == kind] == list(range(run.plan.batches_before(12)[kind]))


def test_log_lines_hold_means_over_their_interval(tmp_path):
    task, losses = NumberTask(), []
    task.register_forward_hook(
        lambda _, inputs, found: losses.append((inputs[0].kind, {k: v.item() for k, v in found.items()}))
    )
    run, _ = make_run(tmp_path, task=task)
    fit(run, 0)
    lines = metrics(tmp_path)
    assert [line["step"] for line in lines] == [5, 10, 12]
    bounds = [sum(run.plan.batches_before(step).values()) for step in (0, 5, 10, 12)]
    for line, begin, end in zip(lines, bounds[:-1], bounds[1:], strict=True):
        for key, mean in line["losses"].items():
            kind, name = key.split("/")
            of_kind = [found[name] for k, found in losses[begin:end] if k == kind]
            assert mean == pytest.approx(sum(of_kind) / len(of_kind), rel=1e-6)
        assert line["images_per_second"] * line["seconds"] == pytest.approx(4 * (end - begin))
        assert line["skipped"] == dict.fromkeys(run.sources, 1) | {"regions": 3}
        assert line["learnt"].keys() == {"temperature"}
        kinds = {key.partition("/")[0] for key in line["losses"]}
        assert line["grad_norms"].keys() == kinds and all(norm > 0 for norm in line["grad_norms"].values())
    assert [line["lr"] for line in lines] == pytest.approx([0.05 * (12 - s) / 9 for s in (4, 9, 11)])


def test_parameters_without_gradient_are_left_alone(tmp_path):
    run, _ = make_run(tmp_path, total=3)
    run = replace(run, plan=Plan(seed=0), sources={"images": NumberSource("texts")})
    before = run.task.head.weight.clone()
    fit(run, 0)
    assert torch.equal(run.task.head.weight, before)  # no weight decay either


def test_divergence_names_step_kind_and_loss_and_saves_nothing(tmp_path):
    task = NumberTask(poison=("images", 2))
    run, _ = make_run(tmp_path, task=task, save_every=1)
    step = next(s for s in range(12) if run.plan.batches_before(s + 1)["images"] == 3)
    with pytest.raises(NonFiniteLossError, match=rf"loss_size.* of the images batch is not finite in step {step} "):
        fit(run, 0)
    saved = newest_checkpoint([tmp_path], pytest.fail)
    assert (0 if saved is None else saved.step) == step
    load_model(saved, task)
    assert all(parameter.isfinite().all() for parameter in task.parameters())


def test_evaluation_does_not_leave_the_model_in_evaluation_mode(tmp_path):
    task, modes, measured = NumberTask(), [], []
    task.register_forward_hook(lambda module, *_: modes.append(module.training))

    def evaluate(done):
        measured.append(done)
        task.eval()

    run, _ = make_run(tmp_path, task=task, evaluate_every=4)
    fit(replace(run, evaluate=evaluate), 0)
    assert measured == [4, 8]  # the one at the end is made by whoever called fit
    assert all(modes)


def test_lines_after_the_resumed_step_are_dropped(tmp_path):
    lines = [json.dumps({"step": step}) for step in (5, 10, 15)] + ['{"step": 2']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    Report(Journal(), tmp_path, is_first=True).forget_after(10)
    assert [line["step"] for line in metrics(tmp_path)] == [5, 10]


def test_a_loss_of_weight_zero_trains_nothing_but_is_logged(tmp_path):
    run, _ = make_run(tmp_path, log_every=12, weights={"loss_head": 0.0})
    before = run.task.head.weight.detach().clone()
    fit(run, 0)
    decay = before * (1 - 0.01 * 0.05) ** 40  # AdamW's default decay is all that may touch it
    assert (run.task.head.weight.abs() >= decay.abs()).all() and (run.task.head.weight.abs() <= before.abs()).all()
    assert metrics(tmp_path)[-1]["losses"]["images/loss_head"] > 0


@pytest.mark.parametrize("stop_at", [None, 5])
def test_time_after_the_last_step_is_counted_too(tmp_path, stop_at):
    run, _ = make_run(tmp_path / "run", total=10, log_every=5, save_every=5)
    if stop_at is not None:
        run = replace(run, save=StopAfter(run.save, step=stop_at))
    events = []
    run.journal.sinks.append(SimpleNamespace(handle=events.append))
    ends = []
    code = _fit_and_finish(run, 0, lambda _: ends.append(len(events)))
    assert code == (0 if stop_at is None else 143)
    *_, last_interval, rest = [number for number, event in enumerate(events) if isinstance(event, Worked)]
    parts, of_all = events[last_interval].seconds_by_part, events[rest].seconds_by_part
    assert of_all["between"] > parts["between"] and of_all == parts | {"between": of_all["between"]}
    assert ends == ([rest] if stop_at is None else [])  # the last evaluation is in it
    assert rest > max(number for number, event in enumerate(events) if isinstance(event, Interval))


def test_operations_of_all_steps_are_counted_and_compared_with_the_peak(tmp_path):
    run, _ = make_run(tmp_path / "run", total=10, log_every=5)
    events = []
    run.journal.sinks.append(SimpleNamespace(handle=events.append))
    fit(replace(run, count_flops=lambda batch: 1e6, peak_flops=1e12), 0)
    updates = len(run.task.seen)
    assert [event.model_flops for event in events if isinstance(event, Worked)][-1] == 1e6 * updates
    intervals = [event for event in events if isinstance(event, Interval)]
    assert sum(each.model_flops_per_second * each.seconds for each in intervals) == pytest.approx(1e6 * updates)
    assert all(each.model_flops_utilization == each.model_flops_per_second / 1e12 for each in intervals)
    lines = metrics(tmp_path / "run")
    assert [line["model_flops_utilization"] for line in lines] == [each.model_flops_utilization for each in intervals]


@pytest.mark.parametrize("poison", [("images", 2), ("images", 0)])
def test_an_update_that_is_not_finite_is_left_out_and_counted(tmp_path, poison):
    """The weights are those of a run in which that update changes nothing, and no number of the log is lost by it."""
    run, _ = make_run(tmp_path / "run", task=NumberTask(poison), on_divergence="skip", log_every=4)
    events, steps = [], []
    run.journal.sinks.append(SimpleNamespace(handle=events.append))
    original = run.optimizer.step
    run.optimizer.step = lambda: (steps.append([*map(torch.clone, run.task.parameters())]), original())
    fit(run, 0)
    at = run.task.seen.index(poison)
    assert all(torch.equal(before, after) for before, after in zip(steps[at], steps[at + 1], strict=True))
    assert not torch.equal(steps[at + 1][0], steps[-1][0])
    assert all(parameter.isfinite().all() for parameter in run.task.parameters())
    [skipped] = [event for event in events if isinstance(event, UpdatesSkipped)]
    assert (skipped.kinds, skipped.total) == ({"images": 1}, 1)
    lines = metrics(tmp_path / "run")
    assert lines[-1]["skipped_updates"] == {"images": 1}
    assert all(value == value for line in lines for value in line["losses"].values())


def test_updates_that_keep_diverging_end_the_run(tmp_path):
    run, _ = make_run(tmp_path, on_divergence="skip", max_skipped_updates=3, log_every=1)
    hook = run.task.register_forward_hook(
        lambda task, args, losses: {name: loss * float("nan") for name, loss in losses.items()}
    )
    with pytest.raises(NonFiniteLossError, match="4 updates in a row .* training.max_skipped_updates allows 3"):
        fit(run, 0)
    hook.remove()
    assert all(parameter.isfinite().all() for parameter in run.task.parameters())
