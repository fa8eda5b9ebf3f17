"""Standalone evaluation: a trained model on the held-out lists of pre-training, or on the tests of its task."""

from __future__ import annotations

from cclm.checkpoints.find import WEIGHTS, find_checkpoint, is_checkpoint_folder
from cclm.checkpoints.initial import build_model, restore_model
from cclm.config.finetune import FinetuneConfig
from cclm.config.pretrain import PretrainConfig
from cclm.data.annotations.read import AnnotatedConfig
from cclm.errors import UserError
from cclm.events import Notice
from cclm.metrics.results import PREDICTIONS, RESULTS
from cclm.training.finetuning_inputs import read_test_sets, tested_split
from cclm.training.held_out import RESULT, HeldOut
from cclm.training.initial_task import initial_task, named_weights
from cclm.training.options import FinetuneOptions
from cclm.training.preflight import load_checked_tokenizer
from cclm.training.resume import Start
from cclm.training.run import evaluating, open_context, start_process
from cclm.training.task_results import publish_results
from cclm.training.task_tests import TaskTests, remarks


def evaluate_pretrained(config: PretrainConfig, weights: str) -> None:
    """Print the retrieval table of a model and write `retrieval.json` into its places.

    Args:
        weights: a checkpoint folder, a run's folder (its newest checkpoint), both on any store, or a published `.th`
            file.

    Raises:
        UserError: no evaluation in the config, or no such model.
    """
    device = start_process()
    if config.evaluation is None:
        raise UserError("the config has no evaluation: name held-out lists in evaluation.files (language: file)")
    context = open_context(config, device)
    tokenizer = load_checked_tokenizer(config)
    held_out = HeldOut(config.evaluation, config.training.precision, tokenizer)
    source, step = weights, 0
    if is_checkpoint_folder(weights):
        checkpoint = find_checkpoint(weights, WEIGHTS)
        model = restore_model(config.model, checkpoint)
        source, step = checkpoint.source, checkpoint.step
    else:
        model = build_model(config.model.model_copy(update={"weights": weights}))
    with evaluating(config, context, model, source, step, [RESULT]):
        scores = held_out.measure(model.to(device), tokenizer, config.model.vision.image_size, device)
        held_out.publish(scores, step, context.journal, context.saving.folder)


def evaluate_finetuned(config: FinetuneConfig, options: FinetuneOptions) -> None:
    """Test a model: the test sets of all languages or, for a few-shot config, those of its language.

    Raises:
        UserError: data or weights are unusable.
    """
    device = start_process()
    if not isinstance(config, AnnotatedConfig):
        raise UserError("task text_assignment is pre-training for reasoning, and has no test; evaluate that task")
    context = open_context(config, device)
    tokenizer = load_checked_tokenizer(config)
    test_sets = read_test_sets(config, options)
    tests = TaskTests(config, tokenizer, device)
    weights = named_weights(config, options.checkpoint, training=False)
    if weights is None:
        raise UserError("say which model to evaluate: --checkpoint PATH, a run's folder or a .th file")
    task = initial_task(config, weights).to(device)
    with evaluating(config, context, task, weights.source, weights.step, [RESULTS, f"{PREDICTIONS}/*"]):
        if remark := remarks(test_sets):
            context.journal.emit(Notice(f"test sets, {remark}"))
        measured = tests.measure(task, test_sets)
        model = Start(weights.step, {"validation": None, "identity": weights.identity}, weights.source, None)
        publish_results(config, tested_split(options), measured, model, context.journal, context.saving.folder)
