"""Cross-lingual transfer on the demo world, with and without the cross-lingual parts of pre-training.

    cclm demo demo_world && python -m benchmarks.transfer

Pre-trains twice (all languages and parallel sentences; English captions alone), fine-tunes both models on each task's
English training set, and prints what the tests say: English, and the mean of the nine languages that fine-tuning never
saw. Then few-shot training in one of them. Every step is a `cclm` command, printed before it runs; what an earlier call
has finished is not done again. About an hour and a half on two idle cores, most of it pre-training.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

METRICS = {
    "multi30k": "r1", "coco": "r1", "xflickrco": "r1", "wit": "r1", "xvnli": "accuracy", "gqa": "accuracy",
    "nlvr": "accuracy",
}  # fmt: skip
"""Task -> what the table shows; r1 is the mean of R@1 both ways."""
PRETRAINING = {
    "all languages": ("configs/demo/pretrain.yaml", "configs/demo/fusion.yaml", "output/demo_fusion", ""),
    "English alone": (
        "configs/demo/english/pretrain.yaml", "configs/demo/english/fusion.yaml", "output/demo_english_fusion",
        "_english",
    ),
}  # fmt: skip
"""Name -> first part, second part, the model, and the ending of the folders fine-tuned from it."""
SHOTS = {"xvnli": "{},48", "xflickrco": "{},100", "gqa": "{}", "nlvr": "{}"}


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.transfer", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="*", choices=METRICS, default=list(METRICS))
    parser.add_argument("--few-shot", default="zh", metavar="LANGUAGE", help="language of the few-shot runs")
    args = parser.parse_args()
    for first, second, model, ending in PRETRAINING.values():
        if not (Path(model) / "retrieval.json").exists():  # written at the end
            cclm("pretrain", first)
            cclm("pretrain", second)
        for task in args.tasks:
            finetune(f"configs/demo/{task}.yaml", model, folder(task, ending))
    for task in args.tasks:
        if task in SHOTS:
            shots = SHOTS[task].format(args.few_shot)
            few = folder(task, f"_few_{args.few_shot}")
            finetune(f"configs/demo/{task}_fewshot.yaml", str(folder(task)), few, "--fewshot", shots)
    for line in transfer_rows(args.tasks) + [""] + few_shot_rows(args.tasks, args.few_shot):
        print(line)


def cclm(*words: str) -> None:
    """Run a command of cclm and end with its exit code if it fails."""
    print("$ cclm", *words, flush=True)
    code = subprocess.run([sys.executable, "-m", "cclm", *words]).returncode
    if code:
        sys.exit(code)


def finetune(config: str, checkpoint: str, output_dir: Path, *options: str) -> None:
    """Unless it was done before."""
    if not (output_dir / "results.json").exists():
        cclm("finetune", config, "--checkpoint", checkpoint, *options, f"output_dir={output_dir}")


def folder(task: str, ending: str = "") -> Path:
    return Path(f"output/transfer/{task}{ending}")


def transfer_rows(tasks: list[str]) -> list[str]:
    """A table: a row a task, English and the mean of the others, for each of the two models."""
    names = [f"{name}: {column}" for name in PRETRAINING for column in ("en", "others")]
    rows = [f"| task | {' | '.join(names)} |", f"| --- |{' --- |' * len(names)}"]
    for task in tasks:
        cells = []
        for *_, ending in PRETRAINING.values():
            test = json.loads((folder(task, ending) / "results.json").read_text(encoding="utf-8"))["test"]
            cells += [shown(test["languages"]["en"], task), shown(test["mean_without_en"], task)]
        rows.append(f"| {task} | {' | '.join(cells)} |")
    return rows


def few_shot_rows(tasks: list[str], language: str) -> list[str]:
    """A table: zero-shot and few-shot of one language; both on its test set."""
    rows = [f"| task | {language}, zero-shot | {language}, few-shot |", "| --- | --- | --- |"]
    for task in tasks:
        if task in SHOTS:
            zero = json.loads((folder(task) / "results.json").read_text(encoding="utf-8"))["test"]["languages"]
            few = json.loads((folder(task, f"_few_{language}") / "results.json").read_text(encoding="utf-8"))["test"][
                "languages"
            ]
            rows.append(f"| {task} | {shown(zero[language], task)} | {shown(few[language], task)} |")
    return rows


def shown(scores: dict[str, float], task: str) -> str:
    """The task's figure, in percent."""
    if METRICS[task] == "r1":
        return f"{(scores['txt_r1'] + scores['img_r1']) / 2:.1f}"
    return f"{scores['accuracy']:.1f}"


if __name__ == "__main__":
    main()
