"""README and docs/: short, and true of what is there. Their commands are run by tests/integration."""

import argparse
import re
import runpy
from pathlib import Path

import pytest

from cclm.cli import launch
from cclm.cli.main import COMMANDS
from tests.pages import NOT_RUN, PAGES, ROOT, RUN, commands

README = ROOT / "README.md"
METHOD = (
    "Model",
    "Pre-training objectives",
    "Course of pre-training",
    "Optimisation",
    "Input pipeline",
    "Fine-tuning tasks",
    "Evaluation",
    "Published behaviour kept and left behind",
)


def prose(page: Path) -> str:
    """The page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Names by which links reach the page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_readme_is_short() -> None:
    assert README.stat().st_size <= 10_000


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            wrong.append(target)
    assert not wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Path) -> None:
    # /opt/cclm is a folder of the image.
    pattern = r"(?<!/opt/)\b((?:cclm|configs|tests|benchmarks|torchx_components)/[\w./-]*\w)(\{?)"
    named = {name for name, brace in re.findall(pattern, page.read_text()) if not brace}
    missing = {name for name in named if not (ROOT / name).exists()}
    assert not missing


def test_every_page_is_named_in_readme() -> None:
    for page in PAGES[1:]:
        assert f"({page.relative_to(ROOT)})" in README.read_text()


def test_every_command_is_run_by_a_test_or_has_a_reason_not_to_be() -> None:
    written = {command for page in PAGES for command in commands(page)}
    known = {*RUN, *NOT_RUN}
    assert written - known == set(), "add these to tests/pages.py"
    assert known - written == set(), "no page has these any more"


def test_every_command_of_the_table_exists() -> None:
    names = set(re.findall(r"^\| `cclm (\w+)", README.read_text(), flags=re.MULTILINE))
    assert names == set(COMMANDS)


def test_docstrings_find_their_sections() -> None:
    """Docstrings name sections of docs/method.md."""
    titles = re.findall(r"^## (.+)$", (ROOT / "docs/method.md").read_text(), flags=re.MULTILINE)
    assert tuple(titles) == METHOD
    wanted = set()
    for file in (ROOT / "cclm").rglob("*.py"):
        text = " ".join(file.read_text().split())
        wanted |= set(re.findall(r"docs/method\.md, section ([A-Z][\w -]+?)(?=[^\w -]|$)", text))
        assert "spec section" not in text, file
    unknown = {name for name in wanted if not any(name.startswith(title) for title in METHOD)}
    assert not unknown


def test_the_picture_is_what_its_script_draws() -> None:
    """But for the scenes' bytes, which change with the version of Pillow."""
    drawn, kept = (
        re.sub(r"base64,[^\"]*", "", text)
        for text in (
            runpy.run_path(str(ROOT / "docs/pictures/make.py"))["picture"](),
            (ROOT / "docs/pictures/views.svg").read_text(encoding="utf-8"),
        )
    )
    assert drawn == kept


def test_every_option_of_launch_is_explained() -> None:
    parser = argparse.ArgumentParser()
    commands_of_parser = parser.add_subparsers()
    launch.add_parser(commands_of_parser)
    page = (ROOT / "docs/runs-that-survive.md").read_text(encoding="utf-8")
    for action in commands_of_parser.choices["launch"]._actions:
        option = next((each for each in action.option_strings if each.startswith("--") and "_" not in each), None)
        if option is not None and option != "--help":
            assert f"`{option}`" in page, option


def test_each_way_through_the_code_counts_its_files() -> None:
    sections = re.split(r"^(?=##+ )", (ROOT / "docs" / "architecture.md").read_text(), flags=re.MULTILINE)
    counted = [(re.search(r"\b(\d+) files\b", text), re.findall(r"^\d+\. ", text, re.MULTILINE)) for text in sections]
    ways = [(int(count[1]), len(items)) for count, items in counted if count]
    assert len(ways) == 5
    assert all(count == listed for count, listed in ways), ways
