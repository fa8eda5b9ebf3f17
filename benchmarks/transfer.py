"""Cross-lingual transfer on the demo world, with and without the cross-lingual parts of pre-training.

    cclm demo demo_world && python -m benchmarks.transfer

It pre-trains twice (on all languages and parallel sentences; on English captions alone), fine-tunes both models on each
task's English training set, and prints the results of the tests: English, and the mean of the other languages (nine;
COCO has two), which fine-tuning never saw. Reasoning is prepared by text assignment, as `nlvr_domain` is. Two other
ways to those languages follow: translations of their tests to English, and few-shot training in one of them. Every step
is a `cclm` command, which is printed before it runs. What an earlier call has finished is not done again. It takes
about an hour and a half on two idle cores, most of it for pre-training.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

METRICS = {
    "multi30k": "r1",
    "coco": "r1",
    "xflickrco": "r1",
    "wit": "r1",
    "xvnli": "accuracy",
    "gqa": "accuracy",
    "nlvr": "accuracy",
}
"""Task -> what the table shows; r1 is the mean of R@1 both ways."""
SHOTS = {"xvnli": "{},48", "xflickrco": "{},100", "gqa": "{}", "nlvr": "{}"}
"""Task -> --fewshot, with the language left out."""
TRANSLATED = ("xflickrco", "wit", "xvnli", "nlvr")
"""Tasks that come with machine translations of their tests."""


@dataclass(frozen=True)
class Variant:
    """A way to pre-train, and what is made from it."""

    name: str
    configs: str
    """Folder of its configs."""
    ending: str
    """Ending of the names of its folders."""

    @property
    def model(self) -> str:
        """Folder of the pre-trained model."""
        return f"output/demo{self.ending}_fusion"

    def folder(self, task: str) -> Path:
        """Folder of the model that is fine-tuned for a task."""
        return Path(f"output/transfer/{task}{self.ending}")


ALL = Variant("all languages", "configs/demo", "")
ENGLISH = Variant("English alone", "configs/demo/english", "_english")


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.transfer", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="*", choices=METRICS, default=list(METRICS))
    parser.add_argument("--few-shot", default="zh", metavar="LANGUAGE", help="language of the few-shot runs")
    args = parser.parse_args()
    for variant in (ALL, ENGLISH):
        pretrain(variant)
        for task in args.tasks:
            start = prepared(variant) if task == "nlvr" else variant.model
            finetune(f"configs/demo/{task}.yaml", start, variant.folder(task))
    for task in args.tasks:
        config, done = f"configs/demo/{task}.yaml", str(ALL.folder(task))
        if task in TRANSLATED and not is_done(translated(task)):
            cclm("evaluate", config, "--checkpoint", done, "--gmt", f"output_dir={translated(task)}")
        if task in SHOTS:
            few = few_shot(task, args.few_shot)
            finetune(f"configs/demo/{task}_fewshot.yaml", done, few, "--fewshot", SHOTS[task].format(args.few_shot))
    tables = transfer_rows(args.tasks), translated_rows(args.tasks), few_shot_rows(args.tasks, args.few_shot)
    print("\n\n".join("\n".join(rows) for rows in tables))


def cclm(*words: str) -> None:
    """Run a command of cclm and end with its exit code if it fails."""
    print("$ cclm", *words, flush=True)
    code = subprocess.run([sys.executable, "-m", "cclm", *words]).returncode
    if code:
        sys.exit(code)


def pretrain(variant: Variant) -> None:
    """Pre-train, unless that was done before."""
    if not (Path(variant.model) / "retrieval.json").exists():  # written at the end
        cclm("pretrain", f"{variant.configs}/pretrain.yaml")
        cclm("pretrain", f"{variant.configs}/fusion.yaml")


def prepared(variant: Variant) -> str:
    """Folder of the model after text assignment, which ends at once if it was done before."""
    output_dir = f"output/demo{variant.ending}_text_assignment"
    config = f"{variant.configs}/text_assignment.yaml"
    cclm("finetune", config, "--checkpoint", variant.model, f"output_dir={output_dir}")
    return output_dir


def finetune(config: str, checkpoint: str, output_dir: Path, *options: str) -> None:
    """Fine-tune, unless that was done before."""
    if not is_done(output_dir):
        cclm("finetune", config, "--checkpoint", checkpoint, *options, f"output_dir={output_dir}")


def is_done(output_dir: Path) -> bool:
    return (output_dir / "results.json").exists()


def translated(task: str) -> Path:
    """Folder of the test on machine translations."""
    return ALL.folder(f"{task}_gmt")


def few_shot(task: str, language: str) -> Path:
    """Folder of the few-shot run."""
    return ALL.folder(f"{task}_few_{language}")


def transfer_rows(tasks: list[str]) -> list[str]:
    """A table: a row a task, English and the mean of the others, for each of the two models."""
    variants = (ALL, ENGLISH)
    names = [f"{variant.name}: {column}" for variant in variants for column in ("en", "others")]
    rows = [f"| task | {' | '.join(names)} |", f"| --- |{' --- |' * len(names)}"]
    for task in tasks:
        cells = []
        for variant in variants:
            test = test_of(variant.folder(task))
            cells += [shown(test["languages"]["en"], task), shown(test["mean_without_en"], task)]
        rows.append(f"| {task} | {' | '.join(cells)} |")
    return rows


def translated_rows(tasks: list[str]) -> list[str]:
    """A table: means of the other languages, on their own tests and on those translated to English."""
    rows = ["| task | others, zero-shot | translated to English |", "| --- | --- | --- |"]
    for task in tasks:
        if task in TRANSLATED:
            means = test_of(ALL.folder(task))["mean_without_en"], test_of(translated(task), "translated_test")["mean"]
            rows.append(f"| {task} | {' | '.join(shown(mean, task) for mean in means)} |")
    return rows


def few_shot_rows(tasks: list[str], language: str) -> list[str]:
    """A table: zero-shot and few-shot of one language; both on its test set."""
    rows = [f"| task | {language}, zero-shot | {language}, few-shot |", "| --- | --- | --- |"]
    for task in tasks:
        if task in SHOTS:
            tests = test_of(ALL.folder(task)), test_of(few_shot(task, language))
            rows.append(f"| {task} | {' | '.join(shown(test['languages'][language], task) for test in tests)} |")
    return rows


def test_of(folder: Path, name: str = "test") -> dict[str, Any]:
    """Results of a test of a fine-tuned model."""
    results: dict[str, Any] = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return results[name]


def shown(scores: Mapping[str, float], task: str) -> str:
    """The task's figure, in percent."""
    if METRICS[task] == "r1":
        return f"{(scores['txt_r1'] + scores['img_r1']) / 2:.1f}"
    return f"{scores['accuracy']:.1f}"


if __name__ == "__main__":
    main()
