"""What `torchx run ... cclm.*` finds: runs of this project as TorchX applications.

    torchx run -s local_cwd cclm.pretrain --config configs/demo/pretrain.yaml
    torchx run -s local_cwd cclm.pretrain --config configs/demo/pretrain.yaml --j 1x2 training.epochs=2

torchx has rules of its own for this file. Every function here is a component, so there are no helpers. Types come from
`typing` only, never `X | None`. Docstrings are in Google style, as they become `--help`. And no torch is imported, as
every torchx command imports this file.
"""

from typing import Dict, List, Optional

import torchx.specs as specs

from cclm.launch import application


def pretrain(
    *overrides: str,
    config: str,
    j: str = "1x1",
    resume: str = "auto",
    name: str = "cclm-pretrain",
    image: str = "cclm:latest",
    cpu: int = 2,
    gpu: int = 0,
    memMB: int = 4096,
    h: Optional[str] = None,
    env: Optional[Dict[str, str]] = None,
    mounts: Optional[List[str]] = None,
    max_retries: int = 0,
    rdzv_port: int = 29500,
    max_restarts: int = 3,
) -> specs.AppDef:
    """Pre-train a cross-view language model: `cclm pretrain` under `cclm launch`.

    Args:
        overrides: settings to change, as key.sub=value, for example optimizer.lr=1e-4; they come last
        config: the run's YAML file, in the image or (local_cwd) relative to this folder
        j: nodes x processes on each, for example 2x8, or 1:2x8 for one node or two; on GPUs one process a GPU
        resume: auto goes on from the newest checkpoint in output_dir, never starts anew
        name: name of the job
        image: container image; local_cwd runs in this folder instead
        cpu: CPU cores a node (not enforced by local_cwd, which uses all there are)
        gpu: GPUs a node
        memMB: memory a node, MB
        h: a registered named resource, instead of cpu, gpu and memMB
        env: environment variables, as A=1,B=2
        mounts: mounts, as type=bind,src=/host,dst=/job[,readonly]; see torchx.specs.parse_mounts
        max_retries: how often the scheduler may start the job again
        rdzv_port: port at which the nodes of a job of several nodes meet
        max_restarts: how often each node starts its processes again before it asks the scheduler
    """
    return application.build_app(
        "pretrain",
        "--resume",
        resume,
        config,
        *overrides,
        name=name,
        image=image,
        j=j,
        cpu=cpu,
        gpu=gpu,
        memMB=memMB,
        h=h,
        env=env,
        mounts=mounts,
        max_retries=max_retries,
        rdzv_port=rdzv_port,
        max_restarts=max_restarts,
    )


def finetune(
    *overrides: str,
    config: str,
    checkpoint: str,
    fewshot: str = "",
    j: str = "1x1",
    resume: str = "auto",
    name: str = "cclm-finetune",
    image: str = "cclm:latest",
    cpu: int = 2,
    gpu: int = 0,
    memMB: int = 4096,
    h: Optional[str] = None,
    env: Optional[Dict[str, str]] = None,
    mounts: Optional[List[str]] = None,
    max_retries: int = 0,
    rdzv_port: int = 29500,
    max_restarts: int = 3,
) -> specs.AppDef:
    """Train a downstream task and test it in every language: `cclm finetune` under `cclm launch`.

    Args:
        overrides: settings to change, as key.sub=value, for example optimizer.lr=1e-4; they come last
        config: the run's YAML file, in the image or (local_cwd) relative to this folder
        checkpoint: weights to start from: a run's folder, a checkpoint, or a published .th file
        fewshot: fills in a few-shot config, as ar,48
        j: nodes x processes on each, for example 2x8, or 1:2x8 for one node or two; on GPUs one process a GPU
        resume: auto goes on from the newest checkpoint in output_dir, never starts anew
        name: name of the job
        image: container image; local_cwd runs in this folder instead
        cpu: CPU cores a node (not enforced by local_cwd, which uses all there are)
        gpu: GPUs a node
        memMB: memory a node, MB
        h: a registered named resource, instead of cpu, gpu and memMB
        env: environment variables, as A=1,B=2
        mounts: mounts, as type=bind,src=/host,dst=/job[,readonly]; see torchx.specs.parse_mounts
        max_retries: how often the scheduler may start the job again
        rdzv_port: port at which the nodes of a job of several nodes meet
        max_restarts: how often each node starts its processes again before it asks the scheduler
    """
    return application.build_app(
        "finetune",
        "--checkpoint",
        checkpoint,
        *(["--fewshot", fewshot] if fewshot else []),
        "--resume",
        resume,
        config,
        *overrides,
        name=name,
        image=image,
        j=j,
        cpu=cpu,
        gpu=gpu,
        memMB=memMB,
        h=h,
        env=env,
        mounts=mounts,
        max_retries=max_retries,
        rdzv_port=rdzv_port,
        max_restarts=max_restarts,
    )


def evaluate(
    *overrides: str,
    config: str,
    checkpoint: str,
    j: str = "1x1",
    name: str = "cclm-evaluate",
    image: str = "cclm:latest",
    cpu: int = 2,
    gpu: int = 0,
    memMB: int = 4096,
    h: Optional[str] = None,
    env: Optional[Dict[str, str]] = None,
    mounts: Optional[List[str]] = None,
    max_retries: int = 0,
    rdzv_port: int = 29500,
    max_restarts: int = 3,
) -> specs.AppDef:
    """Measure a trained model, language by language: `cclm evaluate` under `cclm launch`.

    Args:
        overrides: settings to change, as key.sub=value, for example optimizer.lr=1e-4; they come last
        config: the run's YAML file, in the image or (local_cwd) relative to this folder
        checkpoint: the model: a run's folder, a checkpoint, or a published .th file
        j: nodes x processes on each, for example 2x8, or 1:2x8 for one node or two; on GPUs one process a GPU
        name: name of the job
        image: container image; local_cwd runs in this folder instead
        cpu: CPU cores a node (not enforced by local_cwd, which uses all there are)
        gpu: GPUs a node
        memMB: memory a node, MB
        h: a registered named resource, instead of cpu, gpu and memMB
        env: environment variables, as A=1,B=2
        mounts: mounts, as type=bind,src=/host,dst=/job[,readonly]; see torchx.specs.parse_mounts
        max_retries: how often the scheduler may start the job again
        rdzv_port: port at which the nodes of a job of several nodes meet
        max_restarts: how often each node starts its processes again before it asks the scheduler
    """
    return application.build_app(
        "evaluate",
        "--checkpoint",
        checkpoint,
        config,
        *overrides,
        name=name,
        image=image,
        j=j,
        cpu=cpu,
        gpu=gpu,
        memMB=memMB,
        h=h,
        env=env,
        mounts=mounts,
        max_retries=max_retries,
        rdzv_port=rdzv_port,
        max_restarts=max_restarts,
    )
