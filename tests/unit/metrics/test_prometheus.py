"""Each event becomes values of the metrics that the catalogue lists."""

import dataclasses
import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from cclm.events import (
    Evaluated,
    EvaluationStarted,
    Interval,
    NetworkMeasured,
    PhaseChanged,
    Saved,
    SaveFailed,
    Started,
    StepDone,
    UpdatesSkipped,
    Waited,
    Worked,
)
from cclm.launch_contract import METRICS_FOLDER
from cclm.metrics import catalogue, labels
from cclm.metrics.prometheus import Exported, PrometheusSink, sink_of_process

ROOT = Path(__file__).parents[3]


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def sink(registry: CollectorRegistry) -> PrometheusSink:
    return PrometheusSink(Exported(registry), is_local_first=True)


def worked(images: int, device_bytes: dict[str, int] | None = None) -> Worked:
    return Worked(
        images={"images": images, "texts": 0},
        texts={"images": images, "texts": 2 * images},
        real_tokens=10 * images,
        computed_tokens=16 * images,
        seconds_by_part={"data": 0.25 * images, "compute": 1.0 * images},
        records_read={"images": images + 1},
        records_skipped={"images": {"image": 1}},
        device_bytes=device_bytes or {},
        model_flops=1e9 * images,
    )


# ----------------------------------------------------------------------------------------------------------- catalogue


def test_names_follow_the_conventions() -> None:
    names = [metric.name for metric in catalogue.CATALOGUE]
    assert len(set(names)) == len(names) > 30
    for metric in catalogue.CATALOGUE:
        assert re.fullmatch(r"cclm_[a-z_]+", metric.name)
        assert (metric.kind is catalogue.Kind.COUNTER) == metric.name.endswith("_total"), metric.name
        assert all(re.fullmatch(r"[a-z_]+", label) for label in metric.labels), metric.name
        assert all(len(values) == len(metric.labels) for values in metric.values), metric.name
        # Not base units, or parts of a histogram's name.
        assert not re.search(r"_(ms|milliseconds|minutes|percent|mb|gb|kilobytes|count|sum|bucket)\b", metric.name)
        assert metric.help.endswith("."), metric.name


def test_no_label_grows_with_the_run() -> None:
    for metric in catalogue.CATALOGUE:
        if not metric.name.endswith("_info"):
            assert not set(metric.labels) & {"step", "path", "run", "run_id", "file", "version"}, metric.name


def test_every_metric_is_fed() -> None:
    names = {name: value.name for name, value in vars(catalogue).items() if isinstance(value, catalogue.Metric)}
    assert len(names) == len(catalogue.CATALOGUE)
    sources = [path for path in (ROOT / "cclm").rglob("*.py") if path.name != "catalogue.py"]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    assert [metric for name, metric in names.items() if not re.search(rf"\bcatalogue\.{name}\b", text)] == []


def test_the_page_has_the_tables() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert f"\n{labels.table()}\n" in page, "put what `python -m cclm.metrics.labels` prints into docs/metrics.md"
    assert f"\n{catalogue.table()}\n" in page, "put what `python -m cclm.metrics.catalogue` prints into docs/metrics.md"


# ---------------------------------------------------------------------------------------------------------------- sink


def test_counters_begin_with_0(sink: PrometheusSink, registry: CollectorRegistry) -> None:
    for name in ("train_steps", "checkpoints_saved", "checkpoint_failures", "checkpoint_blocked_seconds"):
        assert registry.get_sample_value(f"cclm_{name}_total") == 0
    for part in ("data", "compute", "optimizer", "between"):
        assert registry.get_sample_value("cclm_step_seconds_total", {"part": part}) == 0
    for state in ("real", "computed"):
        assert registry.get_sample_value("cclm_tokens_total", {"state": state}) == 0


def test_a_start_says_what_the_run_is(sink: PrometheusSink, registry: CollectorRegistry) -> None:
    sink.handle(Started("pretrain", 40, 900, 1234, 2, "cuda", 1, {"images": 7}, ("out",), backend="nccl", network="IB"))
    value = registry.get_sample_value
    assert (value("cclm_train_step"), value("cclm_train_steps_planned"), value("cclm_world_size")) == (40, 900, 2)
    assert value("cclm_run_info", {"task": "pretrain", "device": "cuda", "parameters": "1234"}) == 1
    assert value("cclm_transport_info", {"backend": "nccl", "network": "IB"}) == 1
    assert value("cclm_train_steps_total") == 0  # made by this process, unlike the steps that the run has done


def test_a_run_that_goes_on_shows_its_checkpoint_before_it_saves_one(
    sink: PrometheusSink, registry: CollectorRegistry
) -> None:
    facts = {"processes": 2, "device": "cpu", "threads": 1, "records": {}, "places": ("out",)}
    start = Started("pretrain", 40, 900, 1234, **facts, checkpoint_bytes=4096, checkpoint_time=1.75e9)
    sink.handle(start)
    value = registry.get_sample_value
    assert (value("cclm_checkpoint_step"), value("cclm_checkpoint_bytes")) == (40, 4096)
    assert value("cclm_checkpoint_timestamp_seconds") == 1.75e9
    assert value("cclm_checkpoints_saved_total") == 0  # by this process


def test_a_run_that_begins_has_no_checkpoint(sink: PrometheusSink, registry: CollectorRegistry) -> None:
    sink.handle(Started("pretrain", 0, 900, 1234, 2, "cuda", 1, {}, ("out",)))
    assert registry.get_sample_value("cclm_checkpoint_step") is None


def test_an_evaluation_says_what_it_is(sink: PrometheusSink, registry: CollectorRegistry) -> None:
    sink.handle(EvaluationStarted("xvnli", "out/best", 9, 1234, 2, "cpu", backend="gloo"))
    sink.handle(Evaluated(split="test", step=9, scores={"de": {"accuracy": 62.5}}))
    value = registry.get_sample_value
    labels = {"task": "xvnli", "split": "test", "language": "de", "metric": "accuracy"}
    assert value("cclm_score_ratio", labels) == 0.625
    assert value("cclm_run_info", {"task": "xvnli", "device": "cpu", "parameters": "1234"}) == 1
    assert value("cclm_world_size") == 2
    assert value("cclm_transport_info", {"backend": "gloo", "network": ""}) == 1
    assert value("cclm_train_step") is None  # nothing is trained


def test_counters_of_kinds_begin_with_0(sink: PrometheusSink, registry: CollectorRegistry) -> None:
    sink.handle(Started("pretrain", 0, 9, 1, 1, "cpu", 1, {"images": 7, "texts": 8}, ("out",)))
    for name in ("samples", "texts", "updates_skipped"):
        for kind in ("images", "texts"):
            assert registry.get_sample_value(f"cclm_{name}_total", {"kind": kind}) == 0
    assert registry.get_sample_value("cclm_records_read_total", {"source": "texts"}) == 0
    for source in ("images", "texts"):
        for reason in catalogue.BROKEN_REASONS:
            assert registry.get_sample_value("cclm_records_skipped_total", {"source": source, "reason": reason}) == 0
    sink.handle(UpdatesSkipped(3, {"texts": 2}, 2))
    assert registry.get_sample_value("cclm_updates_skipped_total", {"kind": "texts"}) == 2


def test_the_network_is_measured(sink: PrometheusSink, registry: CollectorRegistry) -> None:
    sink.handle(NetworkMeasured(2, 16, "nccl", "IB", 4.5e10))
    assert registry.get_sample_value("cclm_preflight_bandwidth_bytes_per_second") == 4.5e10


def test_time_of_communication_begins_with_0_where_it_is_told_apart() -> None:
    for backend, expected in (("gloo", 0), ("nccl", None)):
        registry = CollectorRegistry()
        sink = PrometheusSink(Exported(registry), is_local_first=True)
        sink.handle(Started("pretrain", 0, 9, 1, 2, "cpu", 1, {}, ("out",), backend=backend))
        assert registry.get_sample_value("cclm_step_seconds_total", {"part": "communication"}) == expected


def test_steps_are_counted(sink: PrometheusSink, registry: CollectorRegistry) -> None:
    for step in (41, 42):
        sink.handle(StepDone(step))
    assert registry.get_sample_value("cclm_train_steps_total") == 2
    assert registry.get_sample_value("cclm_train_step") == 42
    assert (registry.get_sample_value("cclm_last_step_timestamp_seconds") or 0) > 1.7e9


def test_an_interval_is_shown(sink: PrometheusSink, registry: CollectorRegistry) -> None:
    interval = Interval(
        step=10,
        total_steps=20,
        losses={"images/loss_itc": 3.5, "texts/loss_mlm": 7.25},
        lr=1e-4,
        grad_norms={"images": 1.5},
        learnt={"temperature": 0.0625},
        images_per_second=80.0,
        texts_per_second=120.0,
        seconds=4.0,
        skipped={},
        eta_seconds=30.0,
        epochs={"images": 1.75},
        model_flops_per_second=3e12,
        model_flops_utilization=0.375,
    )
    sink.handle(interval)
    value = registry.get_sample_value
    assert value("cclm_loss", {"kind": "images", "loss": "itc"}) == 3.5
    assert value("cclm_loss", {"kind": "texts", "loss": "mlm"}) == 7.25
    assert value("cclm_learning_rate") == 1e-4
    assert value("cclm_gradient_norm", {"kind": "images"}) == 1.5
    assert value("cclm_temperature") == 0.0625
    assert (value("cclm_images_per_second"), value("cclm_texts_per_second")) == (80, 120)
    assert value("cclm_eta_seconds") == 30
    assert value("cclm_model_flops_utilization_ratio") == 0.375
    assert value("cclm_epochs_done", {"source": "images"}) == 1.75
    sink.handle(PhaseChanged("saving"))
    assert value("cclm_eta_seconds") == 30
    sink.handle(PhaseChanged("ended"))  # after a stop, nothing will make the steps left
    assert value("cclm_eta_seconds") is None and value("cclm_learning_rate") == 1e-4


def test_work_adds_what_is_new(sink: PrometheusSink, registry: CollectorRegistry) -> None:
    """Worked holds totals of its process; what was counted before is not counted again."""
    for images in (8, 8, 20):
        sink.handle(worked(images, {"allocated": 100 * images}))
    value = registry.get_sample_value
    assert value("cclm_samples_total", {"kind": "images"}) == 20
    assert value("cclm_samples_total", {"kind": "texts"}) == 40  # pairs: this kind of batch has no images
    assert value("cclm_texts_total", {"kind": "texts"}) == 40
    assert value("cclm_tokens_total", {"state": "real"}) == 200
    assert value("cclm_tokens_total", {"state": "computed"}) == 320
    assert value("cclm_model_flops_total") == 2e10
    assert value("cclm_step_seconds_total", {"part": "data"}) == 5
    assert value("cclm_step_seconds_total", {"part": "compute"}) == 20
    assert value("cclm_records_read_total", {"source": "images"}) == 21
    assert value("cclm_records_skipped_total", {"source": "images", "reason": "image"}) == 1
    assert value("cclm_device_memory_bytes", {"state": "allocated"}) == 2000


def test_a_time_that_goes_back_a_little_is_not_added_twice(sink: PrometheusSink, registry: CollectorRegistry) -> None:
    """Communication is taken away from the other parts, by another clock."""
    for seconds in (2.0, 1.75, 2.5):
        sink.handle(dataclasses.replace(worked(1), seconds_by_part={"compute": seconds}))
    assert registry.get_sample_value("cclm_step_seconds_total", {"part": "compute"}) == 2.5


def test_an_interval_shows_what_it_has_and_nothing_of_the_one_before(
    sink: PrometheusSink, registry: CollectorRegistry
) -> None:
    first = Interval(
        step=5, total_steps=20, losses={"images/loss_itc": 3.5, "regions/loss_bbox": 7.25}, lr=1e-4,
        grad_norms={"images": 1.5, "regions": 2.5}, learnt={}, images_per_second=1.0, texts_per_second=1.0, seconds=1.0,
        skipped={}, eta_seconds=30.0, model_flops_utilization=0.375,
    )  # fmt: skip
    sink.handle(first)
    assert registry.get_sample_value("cclm_loss", {"kind": "regions", "loss": "bbox"}) == 7.25
    second = dataclasses.replace(
        first, losses={"images/loss_itc": 3.25}, grad_norms={"images": 1.0}, eta_seconds=None,
        model_flops_utilization=None,
    )  # fmt: skip
    sink.handle(second)
    value = registry.get_sample_value
    assert value("cclm_loss", {"kind": "images", "loss": "itc"}) == 3.25
    assert value("cclm_loss", {"kind": "regions", "loss": "bbox"}) is None
    assert value("cclm_gradient_norm", {"kind": "images"}) == 1
    assert value("cclm_gradient_norm", {"kind": "regions"}) is None
    assert value("cclm_eta_seconds") is None and value("cclm_model_flops_utilization_ratio") is None
    sink.handle(first)
    assert value("cclm_loss", {"kind": "regions", "loss": "bbox"}) == 7.25 and value("cclm_eta_seconds") == 30


def test_saves_are_shown(sink: PrometheusSink, registry: CollectorRegistry) -> None:
    sink.handle(Saved(step=30, place="out", bytes=4096, seconds=1.5, held_up_seconds=0.25, time=1.7e9))
    sink.handle(SaveFailed(step=40, place="out", reason="full", failures_in_a_row=1, allowed=3))
    sink.handle(Waited(step=40, seconds=2.0, waited_for="earlier_save"))
    value = registry.get_sample_value
    assert (value("cclm_checkpoint_step"), value("cclm_checkpoint_bytes")) == (30, 4096)
    assert value("cclm_checkpoint_save_seconds") == 1.5
    assert value("cclm_checkpoint_timestamp_seconds") == 1.7e9  # when it was whole, not when that was asked
    assert (value("cclm_checkpoints_saved_total"), value("cclm_checkpoint_failures_total")) == (1, 1)
    assert value("cclm_checkpoint_blocked_seconds_total") == 2.25


def test_a_best_model_is_no_checkpoint_that_a_run_can_go_on_from(
    sink: PrometheusSink, registry: CollectorRegistry
) -> None:
    sink.handle(Saved(step=30, place="out", bytes=4096, seconds=1.5, held_up_seconds=0.25))
    sink.handle(Saved(step=40, place="out/best", bytes=1024, seconds=0.5, held_up_seconds=0.5, is_best=True))
    value = registry.get_sample_value
    assert (value("cclm_checkpoint_step"), value("cclm_checkpoint_bytes")) == (30, 4096)
    assert value("cclm_checkpoint_save_seconds") == 1.5
    assert (value("cclm_checkpoints_saved_total"), value("cclm_best_models_saved_total")) == (1, 1)
    assert value("cclm_checkpoint_blocked_seconds_total") == 0.75


def test_a_save_gives_attempts_back_where_a_launcher_counts_them() -> None:
    for is_launched, expected in ((True, 0), (False, None)):
        registry = CollectorRegistry()
        sink = PrometheusSink(Exported(registry), is_local_first=True, is_launched=is_launched)
        sink.handle(Saved(step=20, place="out/best", bytes=1, seconds=1.0, held_up_seconds=0.0, is_best=True))
        assert registry.get_sample_value("cclm_attempts") is None  # the launcher's own counts
        sink.handle(Saved(step=30, place="out", bytes=4096, seconds=1.5, held_up_seconds=0.25))
        assert registry.get_sample_value("cclm_attempts") == expected


def test_scores_are_ratios(sink: PrometheusSink, registry: CollectorRegistry) -> None:
    sink.handle(Started("xvnli", 0, 9, 1, 1, "cpu", 1, {}, ("out",)))
    sink.handle(Evaluated(split="test", step=9, scores={"de": {"accuracy": 62.5}, "fr": {"accuracy": 50.0}}))
    labels = {"task": "xvnli", "split": "test", "metric": "accuracy"}
    assert registry.get_sample_value("cclm_score_ratio", {**labels, "language": "de"}) == 0.625
    assert registry.get_sample_value("cclm_score_ratio", {**labels, "language": "fr"}) == 0.5


def test_one_phase_is_on(sink: PrometheusSink, registry: CollectorRegistry) -> None:
    for phase in ("training", "saving", "evaluating"):
        sink.handle(PhaseChanged(phase))
        values = {each: registry.get_sample_value("cclm_phase", {"phase": each}) for each in catalogue.PHASES}
        assert values == {each: float(each == phase) for each in catalogue.PHASES}


def test_a_process_that_is_not_the_first_adds_its_work_only() -> None:
    registry = CollectorRegistry()
    other = PrometheusSink(Exported(registry), is_local_first=False)
    for event in (StepDone(1), PhaseChanged("training"), worked(4, {"allocated": 1})):
        other.handle(event)
    assert registry.get_sample_value("cclm_samples_total", {"kind": "images"}) == 4
    names = {metric.name for metric in registry.collect()}
    assert not names & {"cclm_train_steps", "cclm_phase", "cclm_step_seconds", "cclm_device_memory_bytes"}


def test_nothing_is_kept_where_nothing_is_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(METRICS_FOLDER, raising=False)
    assert sink_of_process() is None
