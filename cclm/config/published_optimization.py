"""Optimizer, schedule and accelerator of a released CCLM config file, translated into our keys."""

from __future__ import annotations

from cclm.config.block import Block, Values


def optimization_settings(root: Block) -> Values:
    """Settings under `optimizer`, `schedule` and `training`, and the seed. Raises UserError as `Block` does."""
    optimizer, schedule = root.block("optimizer"), root.block("schedular")
    optimizer.refuse("opt", "adamW", "AdamW is the optimizer built here")
    schedule.refuse("sched", "linear", "the linear schedule is the one built here")
    rate = optimizer.number("lr")
    if schedule.number("lr", rate) != rate:
        raise schedule.fail("lr", f"is {schedule.number('lr')}, but optimizer.lr is {rate}; make the two equal")
    values: Values = {
        "optimizer": {"lr": rate},
        "schedule": _warmup(schedule),
        "training": {"epochs": schedule.whole("epochs")},
    }
    values["optimizer"] |= {key: optimizer.number(key) for key in ("weight_decay", "lr_mult") if optimizer.has(key)}
    accelerator = root.block("accelerator")
    accelerator.refuse(
        "GRAD_ACCUMULATE_STEPS",
        1,
        "contrastive losses need the whole batch; our key compute.accumulate cuts it into parts with the same losses",
    )
    if accelerator.has("RNG_SEED"):
        values["seed"] = accelerator.whole("RNG_SEED")
    if accelerator.has("CLIP_GRAD_NORM"):
        norm = accelerator.number("CLIP_GRAD_NORM")
        values["optimizer"]["clip_grad_norm"] = norm if norm > 0 else None
    if accelerator.has("FP16_OPT_LEVEL"):
        values["training"]["precision"] = "float32" if accelerator.text("FP16_OPT_LEVEL") == "O0" else "auto"
    return values


def _warmup(schedule: Block) -> Values:
    """As published, a number below 1 is a fraction of all steps, and 0 is no warm-up."""
    if not schedule.has("num_warmup_steps"):
        return {"warmup_steps": 0}
    amount = schedule.number("num_warmup_steps")
    return {"warmup_fraction": amount} if 0 < amount < 1 else {"warmup_steps": schedule.whole("num_warmup_steps")}
