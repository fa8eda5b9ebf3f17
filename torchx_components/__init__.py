"""What `torchx run ... cclm.*` finds: runs of this project as TorchX applications.

    torchx run -s local_cwd cclm.pretrain --config configs/demo/pretrain.yaml
    torchx run -s kubernetes cclm.xvnli -h a100x8_p4d -j 1:2x8 --checkpoint s3://bucket/4m --output_hdfs s3://bucket/xvnli

TorchX takes every function of this file for a component, so there are no other ones, and reads the file by rules of its
own, so there is nothing else. `cclm/components/arguments.py` declares the arguments, each once for all components. No
torch is imported, as every torchx command imports this file.
"""

import torchx.specs as specs

from cclm.components import declare, jobs
from cclm.components.arguments import Evaluation, FineTuning, PaperTask, Pretraining, TaskInTwoParts


@declare.component
def pretrain(options: Pretraining) -> specs.AppDef:
    """Pre-train a cross-view language model: `cclm pretrain` under `cclm launch`.

    Started again, it goes on from the newest checkpoint of its folders.

    examples:
      torchx run -s local_cwd cclm.pretrain --config configs/demo/pretrain.yaml -j 1x2 training.epochs=2
      torchx run -s kubernetes cclm.pretrain -h a100x8_p4d -j 2:4x8 --output_hdfs s3://bucket/4m
    """
    return jobs.pretraining(options)


@declare.component
def itr_multi30k(options: PaperTask) -> specs.AppDef:
    """Image-text retrieval on Multi30K: trains on en, de, fr and cs, and tests each.

    config chooses other languages to train on, as configs/cclm-base-ft/Retrieval_multi30k_en_ft.yaml.

    examples:
      torchx run -s kubernetes cclm.itr_multi30k -h a100x8_p4d -j 1x8 --checkpoint s3://bucket/4m \\
          --output_hdfs s3://bucket/multi30k
    """
    return jobs.paper_task(options)


@declare.component
def itr_coco(options: PaperTask) -> specs.AppDef:
    """Image-text retrieval on COCO: trains on en, ja and zh, and tests each.

    config chooses other languages to train on, as configs/cclm-base-ft/Retrieval_coco_ja_ft.yaml.

    examples:
      torchx run -s kubernetes cclm.itr_coco -h a100x8_p4d -j 1x8 --checkpoint s3://bucket/4m \\
          --output_hdfs s3://bucket/coco
    """
    return jobs.paper_task(options)


@declare.component
def xvnli(options: PaperTask) -> specs.AppDef:
    """Visual entailment, XVNLI: does the image entail the sentence? Trains on English, tests en, ar, es, fr and ru.

    With fewshot it trains on 1 to 48 examples of ar, es, fr or ru, from the model that English has trained.

    examples:
      torchx run -s kubernetes cclm.xvnli -h a100x8_p4d -j 1x8 --checkpoint s3://bucket/4m \\
          --output_hdfs hdfs://namenode/xvnli
      torchx run -s kubernetes cclm.xvnli -h a100x1_a2highgpu --checkpoint hdfs://namenode/xvnli --fewshot ar,48 \\
          --output_hdfs hdfs://namenode/xvnli_ar optimizer.lr=1e-6
      torchx run -s local_cwd cclm.xvnli --config configs/demo/xvnli.yaml --checkpoint output/demo
    """
    return jobs.paper_task(options)


@declare.component
def gqa(options: PaperTask) -> specs.AppDef:
    """Visual question answering, xGQA: trains on English GQA, tests en, bn, de, id, ko, pt, ru and zh.

    With fewshot (bn, de, id, ko, pt, ru or zh) it goes on from the model that English has trained.

    examples:
      torchx run -s kubernetes cclm.gqa -h a100x8_p4d -j 1x8 --checkpoint s3://bucket/4m --output_hdfs s3://bucket/gqa
    """
    return jobs.paper_task(options)


@declare.component
def nlvr(options: PaperTask) -> specs.AppDef:
    """Reasoning over two images, MaRVL: trains on English NLVR2, tests en, id, sw, ta, tr and zh.

    With fewshot (id, tr or zh) it goes on from the model that English has trained. cclm.nlvr_domain prepares the model
    for two images first, as the paper does.

    examples:
      torchx run -s kubernetes cclm.nlvr -h a100x8_p4d -j 1x8 --checkpoint s3://bucket/4m --output_hdfs s3://bucket/nlvr
    """
    return jobs.paper_task(options)


@declare.component
def nlvr_domain(options: TaskInTwoParts) -> specs.AppDef:
    """Text assignment on image-text data, which prepares a model for two images, then cclm.nlvr from it, in one job.

    The second part goes to the folder nlvr_ft of output and output_hdfs. Settings that begin with domain. are for the
    first part.

    examples:
      torchx run -s kubernetes cclm.nlvr_domain -h a100x8_p4d -j 1x8 --checkpoint s3://bucket/4m \\
          --output_hdfs s3://bucket/nlvr_domain domain.training.epochs=1
    """
    return jobs.task_in_two_parts(options)


@declare.component
def xflickrco(options: PaperTask) -> specs.AppDef:
    """Image-text retrieval, xFlickr&CO: trains on English Flickr30k, tests en, de, es, id, ja, ru, tr and zh.

    With fewshot (de, es, id, ja, ru, tr or zh, and a number of examples) it goes on from the model that English has
    trained.

    examples:
      torchx run -s kubernetes cclm.xflickrco -h a100x8_p4d -j 1x8 --checkpoint s3://bucket/4m \\
          --output_hdfs s3://bucket/xflickrco
    """
    return jobs.paper_task(options)


@declare.component
def wit(options: PaperTask) -> specs.AppDef:
    """Image-text retrieval on WIT: trains on English, tests en, ar, bg, da, el, et, id, ja, ko, tr and vi.

    examples:
      torchx run -s kubernetes cclm.wit -h a100x8_p4d -j 1x8 --checkpoint s3://bucket/4m --output_hdfs s3://bucket/wit
    """
    return jobs.paper_task(options)


@declare.component
def finetune(options: FineTuning) -> specs.AppDef:
    """Train a downstream task and test it in every language: `cclm finetune` under `cclm launch`, with any config.

    examples:
      torchx run -s local_cwd cclm.finetune --config configs/demo/gqa.yaml --checkpoint output/demo
    """
    return jobs.finetuning(options)


@declare.component
def evaluate(options: Evaluation) -> specs.AppDef:
    """Measure a trained model, language by language: `cclm evaluate` under `cclm launch`.

    A pre-training config measures held-out retrieval, a config of fine-tuning the tests of its task.

    examples:
      torchx run -s local_cwd cclm.evaluate --config configs/demo/xvnli.yaml --checkpoint output/demo_xvnli
      torchx run -s kubernetes cclm.evaluate -h a100x8_p4d -j 1x8 --config configs/cclm-base-ft/WIT.yaml \\
          --checkpoint s3://bucket/wit --output s3://bucket/wit_gmt --gmt True
    """
    return jobs.evaluation(options)
