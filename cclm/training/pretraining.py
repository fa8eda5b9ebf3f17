"""Pre-training: four kinds of batch, one outer step (docs/method.md, section "Course of pre-training")."""

from __future__ import annotations

from pathlib import Path

import torch

from cclm import distributed
from cclm.checkpoints.initial import build_model, outline
from cclm.checkpoints.load import load_model
from cclm.config.batches import check_divisible
from cclm.config.pretrain import PretrainConfig
from cclm.data.batches.loader import SourceStream, open_source
from cclm.data.stored.quarantine import Quarantine
from cclm.events import PhaseChanged
from cclm.metrics.metrics_file import METRICS
from cclm.metrics.metrics_lines import RETRIEVAL, MetricsLines, read_lines
from cclm.metrics.tables import mean_rows
from cclm.model.cclm import CCLM
from cclm.tasks.pretraining_task import PretrainTask, packs_texts
from cclm.training.environment import StopSignal
from cclm.training.held_out import HeldOut
from cclm.training.identity import pretraining_identity
from cclm.training.plan import KINDS, Plan, steps_of_run
from cclm.training.preflight import load_checked_tokenizer
from cclm.training.resume import Start
from cclm.training.run import Built, Course, Recipe, RunContext, Trained, open_context, start_process, train


def pretrain(config: PretrainConfig, *, resume: str = "auto", stop: StopSignal | None = None) -> int:
    """Pre-train as `config` says. Arguments, exit codes and errors are those of `run.train`."""
    device = start_process()
    check_divisible(config, distributed.world_size())
    context = open_context(config, device)
    return train(Pretraining(config, context), context, resume=resume, stop=stop)


class Pretraining(Recipe[CCLM]):
    """Trains CCLM on all sources of the config; checkpoints hold the model without its objective.

    Raises:
        UserError: tokenizer, held-out lists or data are unusable.
    """

    def __init__(self, config: PretrainConfig, context: RunContext) -> None:
        self.config: PretrainConfig = config
        self._context = context
        self._tokenizer = load_checked_tokenizer(config)
        self._held_out: HeldOut | None = None
        if config.evaluation is not None:
            self._held_out = HeldOut(config.evaluation, config.training.precision, self._tokenizer)
        sources = open_sources(config, context.saving.folder)
        records = {kind: source.num_records for kind, source in sources.items()}
        layouts = {kind: source.layout for kind, source in sources.items()}
        self.course = Course(
            sources=sources,
            plan=Plan.of(config),
            total_steps=steps_of_run(config, records["images"]),
            loss_weights={f"loss_{name}": weight for name, weight in config.objective.weights},
            training=config.training,
            identity=pretraining_identity(config.model_dump(mode="json"), records, layouts),
            facts={"records": records, "layouts": layouts},
            evaluates=self._held_out is not None,
            audited=sources,
        )

    def build(self, start: Start | None) -> Built[CCLM]:
        config = self.config
        if start is None:
            model = build_model(config.model, seed=config.seed)
        else:
            if start.checkpoint is not None:
                # Checks names and shapes; a model on the meta device takes no copies.
                load_model(start.checkpoint, outline(config.model))
            model = CCLM(config.model)
        return Built(PretrainTask(model, config.objective, config.compute), model)

    def computes_padding(self, device: torch.device) -> bool:
        return not packs_texts(self.config.compute, device)

    def begin(self, step: int, trained: Trained[CCLM]) -> None:
        """Make up for the evaluation of the step that the run goes on from, where it was cut off after its save."""
        every = self.config.training.evaluate_every
        is_due = self._held_out is not None and every is not None and step > 0 and step % every == 0
        if is_due and step < self.course.total_steps:
            is_done = distributed.gather_objects(is_evaluated(self._context.saving.folder, step))[0]
            if not is_done:
                self._context.journal.emit(PhaseChanged("evaluating"))
                self.evaluate(step, trained)

    def evaluate(self, step: int, trained: Trained[CCLM]) -> None:
        """Held-out retrieval; the model with the best mean recall is kept."""
        if self._held_out is None:
            return
        config, context, model = self.config, self._context, trained.model
        scores = self._held_out.measure(model, self._tokenizer, config.model.vision.image_size, context.device)
        context.saving.save_if_best(step, model, trained.facts, mean_rows(scores)["mean"]["r_mean"])
        # Last, since its line in metrics.jsonl says that all is done.
        self._held_out.publish_while_training(scores, step, context.journal, context.saving.folder)

    def end(self, step: int, trained: Trained[CCLM]) -> None:
        self.evaluate(step, trained)


def is_evaluated(folder: Path, step: int) -> bool:
    """Whether `metrics.jsonl` in the folder holds the held-out retrieval of a step."""
    path = folder / METRICS
    lines = read_lines(path.read_bytes()) if path.exists() else MetricsLines()
    return any(line.step == step for line in lines.scores_of(RETRIEVAL))


def open_sources(config: PretrainConfig, output_dir: Path) -> dict[str, SourceStream]:
    """The sources of the config by kind. The first process goes ahead, so that indexes are built once.

    Args:
        output_dir: where broken records are listed.

    Raises:
        UserError: data is absent or unusable.
    """
    sources: dict[str, SourceStream] = {}
    rank = distributed.rank()
    quarantine = Quarantine(output_dir, rank)
    for is_turn in (rank == 0, rank != 0):
        if is_turn:
            for kind in KINDS:
                if getattr(config.data, kind) is not None:
                    sources[kind] = open_source(
                        kind, config, rank=rank, world_size=distributed.world_size(), quarantine=quarantine
                    )
        distributed.barrier()
    return sources
