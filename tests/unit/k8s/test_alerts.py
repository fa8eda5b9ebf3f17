"""Alerts of the chart: promtool's unit tests of them (`alerts/*.yaml`), and what promtool does not look at."""

import argparse
import importlib
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from torchx.cli.cmd_status import CmdStatus

from cclm.cli.main import COMMANDS
from cclm.cli.parser import Parser
from k8s.commands import Log
from tests.prometheus_server import program

ROOT = Path(__file__).parents[3]
RULES = ROOT / "helm" / "cclm-pretrain" / "files" / "alerts.yaml"
RUNBOOKS = ROOT / "docs" / "runbooks"
CASES = sorted((Path(__file__).parent / "alerts").glob("*.yaml"))

GROUPS = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
ALERTS = {rule["alert"]: rule for group in GROUPS for rule in group["rules"] if "alert" in rule}


def minutes(text: str) -> int:
    """`1h15m` -> 75."""
    return sum(int(number) * {"h": 60, "m": 1}[unit] for number, unit in re.findall(r"(\d+)([hm])", text))


# The first time, promtool is built: minutes, or half an hour on a busy machine.
@pytest.mark.slow
@pytest.mark.timeout(5400)
@pytest.mark.parametrize(
    "words", [["check", "rules", "--lint-fatal", RULES], ["test", "rules", *CASES]], ids=["check", "test"]
)
def test_promtool_finds_nothing(words: list[str | Path]) -> None:
    done = subprocess.run([program("promtool"), *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("SUCCESS") == (len(CASES) if words[0] == "test" else 1)
    assert "WARN" not in done.stderr


def test_there_is_something_to_test() -> None:
    assert len(ALERTS) >= 14 and len(CASES) == 8
    for case in CASES:
        [rules] = yaml.safe_load(case.read_text(encoding="utf-8"))["rule_files"]
        assert (case.parent / rules).resolve() == RULES  # promtool takes a pattern that matches nothing for a success


@pytest.mark.parametrize("name", ALERTS)
def test_each_alert_is_tested_before_it_fires_when_it_fires_and_after(name: str) -> None:
    """In one course of events, at three times; and another one must not make it fire, where that is easily done."""
    courses = [test for case in CASES for test in yaml.safe_load(case.read_text(encoding="utf-8"))["tests"]]
    for course in courses:
        asked = [test for test in course.get("alert_rule_test", []) if test["alertname"] == name]
        if asked:
            assert [bool(test["exp_alerts"]) for test in asked] == [False, True, False]
            times = [minutes(test["eval_time"]) for test in asked]
            assert times == sorted(times)
            return
    raise AssertionError(f"no test of {name} has alert_rule_test")


@pytest.mark.parametrize("rule", ALERTS.values(), ids=ALERTS)
def test_each_alert_says_how_bad_it_is_what_it_means_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    page = ROOT / rule["annotations"]["runbook_url"]
    assert page.parent == RUNBOOKS
    text = page.read_text(encoding="utf-8")
    assert f"`{rule['alert']}`" in text
    assert re.findall(r"^## (.+)$", text, flags=re.MULTILINE) == ["Look", "Do"]
    assert "```sh\n" in text


def test_each_runbook_belongs_to_an_alert() -> None:
    named = {ROOT / rule["annotations"]["runbook_url"] for rule in ALERTS.values()}
    assert {path for path in RUNBOOKS.glob("*.md") if path.name != "README.md"} == named


PAGES = [*sorted(RUNBOOKS.glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_a_runbook_lead_somewhere_and_its_commands_can_be_given(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        assert (page.parent / target).exists(), target
    lines = [line for block in re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL) for line in block.splitlines()]
    for line in lines:
        program_name, *words = shlex.split(line)
        match program_name:
            case "cclm":
                parser = Parser()
                module = importlib.import_module(COMMANDS[words[0]][0])
                module.add_parser(parser.add_subparsers())
                parser.parse_command_line(words)
            case "torchx":
                verb = {"log": Log, "status": CmdStatus}[words[0]]()
                arguments = argparse.ArgumentParser()
                verb.add_arguments(arguments)
                arguments.parse_args(words[1:])
            case _:
                assert program_name == "kubectl", line


def test_the_page_of_alerts_names_each_with_its_severity_and_runbook() -> None:
    text = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(Cclm\w+)` \|.+\| (\w+) \| \[page\]\((\S+)\) \|$", text, flags=re.MULTILINE)
    assert rows == [
        (name, rule["labels"]["severity"], rule["annotations"]["runbook_url"].removeprefix("docs/"))
        for name, rule in ALERTS.items()
    ]
    assert f"{len(ALERTS)} alerts" in text
