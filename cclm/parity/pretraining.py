"""Items of pre-training: states, logits, losses, gradients, optimizer steps and weights.

Dimension letters: B texts.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from cclm.checkpoints.backbones import load_xlm_roberta
from cclm.checkpoints.published import read_published_file, to_published
from cclm.config.optimization import OptimizerConfig
from cclm.config.pretrain import ObjectiveConfig
from cclm.data.batches.batch import ImageTextBatch, JoinedTextBatch, ParallelTextBatch, PretrainBatch, RegionTextBatch
from cclm.errors import UserError
from cclm.model.attention import Context
from cclm.model.cclm import CCLM
from cclm.model.vision import region_states
from cclm.parity.comparison import Item
from cclm.parity.golden import WEIGHTS, XLM_ROBERTA, Golden
from cclm.parity.gradients import losses_and_norms, watched_names
from cclm.sequences import Sequences
from cclm.tasks import losses
from cclm.tasks.pretraining_task import PretrainTask
from cclm.training.optimizer import build_optimizer, parameter_groups

WATCHED = (
    "vision_encoder.patch_embed.proj.weight",
    "text_encoder.bert.embeddings.word_embeddings.weight",
    "text_encoder.bert.encoder.layer.0.attention.self.query.weight",
    "text_encoder.bert.encoder.layer.11.crossattention.self.value.weight",
    "temp",
    "itm_head.3.weight",
)
"""Published names of parameters whose gradient norms are compared one by one, where a step has them."""


def image_batch(golden: Golden, file: str = "inputs") -> ImageTextBatch:
    """The image-text batch in a file of inputs."""
    return ImageTextBatch(golden.input("image", file), golden.text("text", file=file), golden.masked(file=file))


def _batches(golden: Golden) -> dict[str, PretrainBatch]:
    """One batch of each kind, by its name in `manifest.json`."""
    image = image_batch(golden)
    second = Sequences(golden.input("text_ids_2"), golden.input("text_atts_2").sum(dim=1))
    return {
        "image": image,
        "image_2captions": replace(image, second_text=second),
        "parallel_text": ParallelTextBatch(image.text, image.masked, second),
        "parallel_text_tlm": JoinedTextBatch(image.text, second, golden.masked("tlm_")),
        "region": RegionTextBatch(
            images=golden.input("region_image"),
            text=image.text,
            masked=image.masked,
            image_of_text=golden.input("idx_to_group_img"),
            patches=golden.input("region_image_atts").bool(),
            boxes=golden.input("target_bbox"),
            is_whole_image=golden.input("is_image").bool(),
        ),
    }


def step_items(golden: Golden, expected: dict[str, Item]) -> dict[str, Item]:
    """Losses and gradient norms of each kind of step, and the contrastive loss alone, with and without ids."""
    task = PretrainTask(golden.model(), ObjectiveConfig()).eval()
    found: dict[str, Item] = {}
    for kind, batch in _batches(golden).items():
        prefix = f"manifest.json/scalars/{kind}"
        watched = watched_names(expected, f"{prefix}/grad_norm", WATCHED)
        items = losses_and_norms(golden, task, batch, watched=watched).items
        found |= {f"{prefix}/{name}": item for name, item in items.items()}
    features = golden.input("itc_image_feat"), golden.input("itc_text_feat")
    temperature = task.model.space.temperature.detach()
    ids = golden.input("itc_idx")
    found["manifest.json/scalars/itc/loss"] = losses.contrastive(*features, temperature).item()
    found["manifest.json/scalars/itc_idx/loss"] = losses.contrastive(*features, temperature, ids=ids).item()
    found["manifest.json/init_params"] = sorted(golden.name(name) for name in task.fresh_parameters())
    return found


@torch.no_grad()
def state_items(golden: Golden) -> dict[str, Item]:
    """The states, features and logits of `outputs`."""
    model = golden.model()
    batch, encoders, space = image_batch(golden), model.encoders, model.space
    images, text = encoders.encode_images(batch.images), encoders.encode_text(batch.text)
    fused = encoders.fuse(text, Context(images))
    masked = encoders.fuse(encoders.encode_text(batch.masked.tokens), Context(images))
    region_images = encoders.encode_images(golden.input("region_image"))
    owners = golden.input("idx_to_group_img")
    regions = region_states(region_images, owners, golden.input("region_image_atts").bool())
    boxes = model.box_head(encoders.fuse(text, Context(region_images, owners)).first()).sigmoid()
    slots = golden.input("masked_pos")  # (B, slots)
    rows = torch.arange(len(slots))[:, None].expand_as(slots)
    mlm_logits = model.token_logits(masked.at(rows.flatten(), slots.flatten()))
    outputs = {
        "image_embeds": images.data,
        "text_embeds": text.data,
        "image_feat": space.image_features(images.first()),
        "text_feat": space.text_features(text.first()),
        "cross_embeds": fused.data,
        "itm_logits": model.match_head(fused.first()),
        "mlm_logits": torch.unflatten(mlm_logits, 0, slots.shape),
        "region_embeds": regions.data,
        "region_embeds_full": region_images.select(owners).data,
        "bbox": boxes,
    }
    return {f"outputs/{name}": tensor for name, tensor in outputs.items()}


def optimizer_items(golden: Golden) -> dict[str, Item]:
    """Parameter groups, and four updates on the image batch."""
    task = PretrainTask(golden.model(), ObjectiveConfig()).eval()
    found: dict[str, Item] = {}
    for index, group in enumerate(parameter_groups(task, OptimizerConfig())):
        prefix = f"extra.json/optimizer_groups/{index}"
        found[f"{prefix}/lr"], found[f"{prefix}/weight_decay"] = group["lr"], group["weight_decay"]
        found[f"{prefix}/names"] = sorted(golden.name(name) for name in group["names"])
    optimizer = build_optimizer(task, OptimizerConfig(lr=1e-3))
    batch = image_batch(golden)
    for step in range(4):
        temperature = task.model.space.temperature.item()
        items = losses_and_norms(golden, task, batch, watched=[]).items
        nn.utils.clip_grad_norm_(task.parameters(), 1.0)
        optimizer.step()
        prefix = f"more.json/results/optimizer_steps/{step}"
        found |= {f"{prefix}/{name}": item for name, item in (items | {"temp": temperature}).items()}
    return found


def weight_items(golden: Golden) -> dict[str, Item]:
    """Norms of the weights from the XLM-R folder. Also checks that written weights equal the published file.

    Raises:
        UserError: writing the loaded model does not give the names, types, shapes and values of the published file.
    """
    published = read_published_file(golden.folder / WEIGHTS)
    written = to_published(golden.model(), num_text_layers=golden.num_text_layers)
    if published.keys() != written.keys():
        raise UserError(f"written weights differ from {WEIGHTS} in {sorted(published.keys() ^ written.keys())[:3]}")
    for name, tensor in published.items():
        if tensor.dtype != written[name].dtype or not torch.equal(tensor, written[name]):
            raise UserError(f"written weights differ from {WEIGHTS} in the values of {name}")
    fresh = CCLM(golden.model_config)
    load_xlm_roberta(fresh, golden.model_config.text, str(golden.folder / XLM_ROBERTA))
    text = {
        golden.name(name): parameter
        for name, parameter in fresh.named_parameters()
        if golden.name(name).startswith("text_encoder.") and "cross_attention." not in name
    }
    prefix = "more.json/results/fresh_text_norms"
    return {f"{prefix}/{name}": parameter.double().norm().item() for name, parameter in text.items()}
