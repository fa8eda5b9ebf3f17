"""Items of the downstream models: retrieval, XVNLI, NLVR, VQA, text assignment, and two-stage scores.

Dimension letters: B images, A answers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cclm.data.batches.finetuning_batch import AnswerBatch, ClassificationBatch, PairBatch, RetrievalBatch
from cclm.model.attention import Context
from cclm.parity.comparison import Item
from cclm.parity.golden import Golden
from cclm.parity.gradients import losses_and_norms, watched_names
from cclm.tasks.answering import AnsweringTask
from cclm.tasks.classification import ClassificationTask
from cclm.tasks.reasoning import PairTask, TextAssignmentTask
from cclm.tasks.rescoring import EncodedViews, two_stage_scores
from cclm.tasks.retrieval import RetrievalTask

IMAGE_IDS = (3, 9)
"""Image ids of the retrieval batch. The folder does not store them."""
NUM_DECODER_LAYERS = 6
WATCHED = {
    "retrieval": ("temp", "itm_head.3.weight", "text_encoder.encoder.layer.11.crossattention.self.value.weight"),
    "xvnli": ("cls_head.3.weight", "text_encoder.encoder.layer.11.crossattention.self.value.weight"),
    "nlvr": (
        "cls_head.3.weight",
        "text_encoder.encoder.layer.6.crossattention.self.query.weight",
        "text_encoder.encoder.layer.7.crossattention.self.query.weight",
        "text_encoder.encoder.layer.6.crossattention.self.value.weight",
    ),
    "vqa": (
        "text_encoder.embeddings.word_embeddings.weight",
        "text_decoder.bert.embeddings.word_embeddings.weight",
        "text_decoder.bert.encoder.layer.0.crossattention.self.key.weight",
        "text_decoder.cls.predictions.transform.dense.weight",
    ),
}
"""Published names of parameters whose gradient norms are compared one by one, besides the first vision weight."""
RETRIEVAL_CANDIDATES = ANSWER_CANDIDATES = 4


def finetuning_items(golden: Golden, expected: dict[str, Item]) -> dict[str, Item]:
    """All items of this module."""
    items = _retrieval(golden, expected) | _xvnli(golden, expected) | _nlvr(golden, expected) | _vqa(golden, expected)
    return items | _text_assignment(golden) | _two_stage(golden)


def _loss_items(
    golden: Golden, expected: dict[str, Item], task: nn.Module, batch: object, name: str
) -> dict[str, Item]:
    """Loss and gradient norms of one fine-tuning batch, under their names in `more.json` and `manifest.json`."""
    prefix = f"more.json/results/{name}"
    watched = watched_names(expected, f"{prefix}/grad_norm", ("vision_encoder.patch_embed.proj.weight", *WATCHED[name]))
    computed = losses_and_norms(golden, task.eval(), batch, finetuned=True, watched=watched)
    items: dict[str, Item] = {f"{prefix}/loss": computed.total.item()}
    for key, value in computed.items.items():
        if key.startswith("grad_norm"):
            items[f"{prefix}/{key}"] = value
        if key.startswith("loss"):
            items[f"manifest.json/scalars/{name}/{key}"] = value
    return items


def _fresh(golden: Golden, task: RetrievalTask | ClassificationTask | PairTask) -> list[str]:
    """Published names of the parameters without pre-trained weights."""
    return sorted(golden.name(name, finetuned=True) for name in task.fresh_parameters())


def _load_head(golden: Golden, head: nn.Module, prefix: str) -> None:
    """Copy the weights of a head from the folder."""
    with torch.no_grad():
        for name, parameter in head.named_parameters():
            parameter.copy_(golden.input(prefix + name, "task_heads"))


def _retrieval(golden: Golden, expected: dict[str, Item]) -> dict[str, Item]:
    task = RetrievalTask(golden.model())
    batch = RetrievalBatch(golden.input("image"), golden.text("text"), torch.tensor(IMAGE_IDS))
    items = _loss_items(golden, expected, task, batch, "retrieval")
    return items | {"more.json/results/retrieval/init_params": _fresh(golden, task)}


def _xvnli(golden: Golden, expected: dict[str, Item]) -> dict[str, Item]:
    task = ClassificationTask(golden.model(), len(golden.input("xvnli.cls_head.3.bias", "task_heads"))).eval()
    _load_head(golden, task.class_head, "xvnli.cls_head.")
    image, text = golden.input("image"), golden.text("text")
    batch = ClassificationBatch(image, text, golden.input("xvnli_labels", "more"))
    items = _loss_items(golden, expected, task, batch, "xvnli")
    items["outputs/xvnli_logits"] = task.logits(image, text)
    return items | {"more.json/results/xvnli/init_params": _fresh(golden, task)}


def _nlvr(golden: Golden, expected: dict[str, Item]) -> dict[str, Item]:
    task = PairTask(golden.model()).eval()
    _load_head(golden, task.class_head, "nlvr.cls_head.")
    images, text = golden.input("pair_images"), golden.text("text")
    left, right = torch.split(images, len(images) // 2)
    batch = PairBatch(left, right, text, golden.input("nlvr_labels", "more"))
    items = _loss_items(golden, expected, task, batch, "nlvr")
    pairs = task.encoders.fusion_encoder.layers
    right_parts = dict(pairs[0].right.cross_attention.named_parameters())
    shared = [
        name for name, parameter in pairs[0].left.cross_attention.named_parameters() if right_parts[name] is parameter
    ]
    return items | {
        "outputs/nlvr_logits": task.logits(left, right, text),
        "more.json/results/nlvr/init_params": _fresh(golden, task),
        "more.json/results/nlvr/shared": shared,
        "more.json/results/nlvr/layers": len(task.encoders.text_encoder.layers) + 2 * len(pairs),
        "more.json/results/nlvr/parameters": _count(task),
    }


def _count(task: nn.Module) -> int:
    return sum(parameter.numel() for parameter in task.parameters())


def _vqa(golden: Golden, expected: dict[str, Item]) -> dict[str, Item]:
    task = AnsweringTask(golden.model(), NUM_DECODER_LAYERS).eval()
    image, questions, answer_list = golden.input("image"), golden.text("text"), golden.text("answer")
    answers_of_image: Tensor = golden.input("vqa_k")
    owners = torch.arange(len(answers_of_image)).repeat_interleave(answers_of_image)  # (A,)
    chosen = answer_list.select(golden.input("vqa_answer_rows"))
    batch = AnswerBatch(image, questions, chosen, owners, golden.input("vqa_weights"))
    items = _loss_items(golden, expected, task, batch, "vqa")
    ranked = task.rank(image, questions, answer_list, ANSWER_CANDIDATES)
    return items | {
        "more.json/results/vqa/parameters": _count(task),
        "outputs/vqa_topk_ids": ranked.answers,
        "outputs/vqa_topk_probs": ranked.probabilities,
    }


@torch.no_grad()
def _text_assignment(golden: Golden) -> dict[str, Item]:
    task = TextAssignmentTask(golden.model()).eval()
    task.assignment_head.weight.copy_(golden.input("ta_head.weight", "more"))
    task.assignment_head.bias.copy_(golden.input("ta_head.bias", "more"))
    images, text = task.encoders.image_encoder(golden.input("image")), golden.text("text")
    left, right = torch.zeros(len(text), dtype=torch.int64), torch.ones(len(text), dtype=torch.int64)
    return {
        "more/ta_logits_left0_right1": task.logits(text, Context(images, left), Context(images, right)),
        "more/ta_image_similarity": task.image_similarity(images),
    }


@torch.no_grad()
def _two_stage(golden: Golden) -> dict[str, Item]:
    model = golden.model()
    images = model.encoders.encode_images(golden.input("two_stage_images", "more"))
    texts = model.encoders.encode_text(golden.text("two_stage_text", file="more"))
    views = EncodedViews(
        images, texts, model.space.image_features(images.first()), model.space.text_features(texts.first())
    )
    scores = two_stage_scores(model, views, RETRIEVAL_CANDIDATES)
    return {"more/two_stage_i2t": scores.image_to_text, "more/two_stage_t2i": scores.text_to_image}
