"""`cclm finetune` and `cclm evaluate` on the four tasks: from files to results."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cclm.demo.world import DemoSize, make_demo_world
from tests.stores.server import free_ports

from .conftest import metrics, run, start
from .finetune_world import LANGUAGES, SIDE, evaluate_all, evaluate_as, task_settings, write_config
from .test_metrics_endpoint import Samples, phase, steps, value, wait_until
from .test_pretrain import wait_for_line


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tests of five pictures: no number of processes divides them."""
    root = tmp_path_factory.mktemp("demo") / "world"
    size = DemoSize(
        image_side=SIDE, image_text=24, regions=2, mono=2, parallel=24, held_out_test=2, held_out_validation=2,
        finetune_train=8, finetune_test=5,
    )  # fmt: skip
    make_demo_world(root, seed=1, size=size, progress=False)
    return root


@pytest.mark.slow
def test_any_number_of_processes_gives_the_same_results(world: Path, tmp_path: Path) -> None:
    """Metrics and every prediction of all four tasks, bit for bit, by one, two and three processes."""
    configs = {task: write_config(tmp_path / f"{task}.yaml", world, task) for task in task_settings(world)}
    folders = {number: tmp_path / str(number) for number in (1, 2, 3)}
    for folder in folders.values():
        folder.mkdir()
    threads = torch.get_num_threads()
    evaluate_all(folders[1], configs)
    torch.set_num_threads(threads)
    for number in (2, 3):
        arguments = (number, *free_ports(1), folders[number], configs)
        torch.multiprocessing.spawn(evaluate_as, args=arguments, nprocs=number)
    for task in configs:
        alone = json.loads((folders[1] / f"{task}.json").read_text())
        assert alone[0]["languages"].keys() == set(LANGUAGES)
        assert all(alone[1][language] for language in LANGUAGES)
        for number in (2, 3):
            assert json.loads((folders[number] / f"{task}.json").read_text()) == alone, (task, number)


@pytest.mark.slow
def test_a_killed_run_goes_on_bit_for_bit_and_its_best_model_trains_few_shots(world: Path, tmp_path: Path) -> None:
    training = {"epochs": 4, "batch_size": 6, "num_workers": 0, "log_every": 1}  # 24 examples: 16 steps
    whole = write_config(tmp_path / "whole.yaml", world, "classification", training=training)
    done = run("finetune", whole)
    output = tmp_path / "whole"
    results = json.loads((output / "results.json").read_text())
    assert set(results["test"]["languages"]) == set(LANGUAGES)
    others = [results["test"]["languages"][language]["accuracy"] for language in LANGUAGES[1:]]
    assert results["test"]["mean_without_en"]["accuracy"] == pytest.approx(sum(others) / 2)
    lines = [json.loads(line) for line in (output / "predictions" / "test-de.jsonl").read_text().splitlines()]
    assert len(lines) == results["test"]["languages"]["de"]["examples"] == 15
    right = sum(line["predicted"] == line["right"] for line in lines)
    assert results["test"]["languages"]["de"]["accuracy"] == pytest.approx(100 * right / 15)
    scores = {line["step"]: line["validation"]["mean"]["accuracy"] for line in metrics(output) if "validation" in line}
    assert list(scores) == [4, 8, 12, 16]
    best = next(step for step, score in scores.items() if score == max(scores.values()))
    assert results["step"] == best and f"selected step {best}" in done.stdout

    parts = write_config(tmp_path / "parts.yaml", world, "classification", training=training)
    process = start("finetune", parts)
    wait_for_line(tmp_path / "parts" / "metrics.jsonl", 11)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    resumed = run("finetune", parts).stdout
    assert "resuming after step" in resumed and "other settings" not in resumed
    assert metrics(tmp_path / "parts") == metrics(output)
    again = json.loads((tmp_path / "parts" / "results.json").read_text())
    assert again["test"] == results["test"] and again["step"] == best
    (mine,), (theirs,) = ((tmp_path / name / "best").glob("*/model*.safetensors") for name in ("parts", "whole"))
    mine, theirs = load_file(mine), load_file(theirs)
    assert all(mine[name].equal(theirs[name]) for name in theirs)

    annotations = f"{world}/iglue/datasets/XVNLI/annotations"
    few = write_config(
        tmp_path / "few.yaml", world, "classification", training=training | {"epochs": 2}, optimizer={"lr": 1e-4},
        data={
            "image_root": f"{world}/images/flickr30k-images",
            "train_files": f"{annotations}/{{language}}/train_{{shots}}.jsonl",
            "validation_files": {"{language}": f"{annotations}/{{language}}/test.jsonl"},
            "test_files": {},
        },
    )  # fmt: skip
    few_shot = run("finetune", few, "--checkpoint", output, "--fewshot", "zh,5")
    assert f"starting from {output}/best/step-{best:08d}" in few_shot.stdout
    assert "validated on the test set of that language" in few_shot.stdout
    shown = json.loads((tmp_path / "few" / "results.json").read_text())
    assert list(shown["test"]["languages"]) == ["zh"] and "5 shots of zh" in shown["protocol"]
    assert shown["validation"]["score"] == shown["test"]["mean"]["accuracy"]
    again = run("evaluate", few, "--checkpoint", tmp_path / "few", "--fewshot", "zh,5", f"output_dir={tmp_path}/again")
    assert "few-shot, as published: trained on 5 shots of zh" in again.stdout
    zero = run("evaluate", few, "--checkpoint", output, "--fewshot", "zh,5", f"output_dir={tmp_path}/again")
    assert "few-shot" not in zero.stdout  # the English model on the same test set: nothing was trained on
    assert json.loads((tmp_path / "again" / "results.json").read_text())["protocol"] is None


@pytest.mark.slow
def test_text_assignment_is_what_reasoning_starts_from_and_nothing_else(world: Path, tmp_path: Path) -> None:
    source = {"files": [f"{world}/data/pretrain/image_text"], "batch_size": 4, "num_workers": 0}
    path = write_config(tmp_path / "assignment.yaml", world, "reasoning")
    text = path.read_text()
    assignment = tmp_path / "ta.yaml"
    lines = [line for line in text.split("data:")[0].splitlines() if not line.startswith(("task:", "output_dir:"))]
    assignment.write_text(
        "\n".join(lines) + f"\ntask: text_assignment\noutput_dir: {tmp_path}/ta\n"
        f"data: {{images: {json.dumps(source)}}}\ntraining: {{max_steps: 2, log_every: 1}}\n"
    )
    refused = run("finetune", assignment, "data.images.batch_size=1", code=2)
    assert "batch_size = 1 gives each process one image" in refused.stderr and not (tmp_path / "ta/log.txt").exists()
    done = run("finetune", assignment)
    warning = (
        "neither --checkpoint nor model.weights names a pre-trained model, so the encoders, the fusion encoder and "
    )
    assert warning in done.stdout + done.stderr and warning in (tmp_path / "ta" / "log.txt").read_text()
    again = run("finetune", assignment, "--checkpoint", "other.th", "optimizer.lr=1e-4").stdout
    assert "--checkpoint other.th is not used: the run goes on from" in again
    assert "going on from step 2 with other settings than it was saved with: optimizer.lr 3e-05 -> 0.0001\n" in again
    training = {"max_steps": 1, "batch_size": 4, "num_workers": 0}
    nlvr = write_config(tmp_path / "nlvr.yaml", world, "reasoning", training=training)
    assert f"starting from {tmp_path}/ta/step-00000002" in run("finetune", nlvr, "--checkpoint", tmp_path / "ta").stdout
    again = run("finetune", nlvr, "--checkpoint", "other.th", "optimizer.lr=1e-4").stdout
    assert "--checkpoint other.th is not used: the run goes on from" in again
    assert "going on from step 1 with other settings than it was saved with: optimizer.lr 3e-05 -> 0.0001\n" in again
    assert "is not used" not in run("finetune", nlvr, "--checkpoint", tmp_path / "ta").stdout
    gqa = write_config(tmp_path / "gqa.yaml", world, "answering", training=training)
    refused = run("finetune", gqa, "--checkpoint", tmp_path / "ta", code=2)
    assert "was fine-tuned for text_assignment, but the config's task is answering" in refused.stderr
    assert not (tmp_path / "gqa").exists()
    refused = run("evaluate", gqa, "--checkpoint", tmp_path / "nlvr", code=2)
    assert "was fine-tuned for reasoning, but the config's task is answering" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.slow
def test_fine_tuning_and_evaluation_serve_metrics(world: Path, tmp_path: Path) -> None:
    training = {"epochs": 2000, "batch_size": 6, "num_workers": 0, "log_every": 1}
    path = write_config(tmp_path / "served.yaml", world, "classification", training=training)
    [port] = free_ports(1)
    process = start("finetune", path, "--metrics-port", port)
    samples = wait_until(port, lambda samples: phase(samples) == "training" and steps(samples) >= 2)
    assert value(samples, "cclm_train_steps_planned") == 8000
    assert any(name == "cclm_loss" and ("kind", "examples") in labels for name, labels in samples)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 143, out + err

    process = start("evaluate", path, "--checkpoint", tmp_path / "served", "--metrics-port", port)
    seen = set()

    def has_scores(samples: Samples) -> bool:
        seen.add(phase(samples))
        return {dict(labels)["language"] for name, labels in samples if name == "cclm_score_ratio"} >= set(LANGUAGES)

    samples = wait_until(port, has_scores)
    assert "preparing" in seen and "training" not in seen
    labels = {name: dict(labels) for name, labels in samples}
    assert labels["cclm_score_ratio"]["task"] == labels["cclm_run_info"]["task"] == "classification"
    assert value(samples, "cclm_world_size") == 1 and "cclm_build_info" in labels
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, out + err
