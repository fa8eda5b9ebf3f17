"""Files of the charts are made from the code and from each other."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from cclm import __version__
from k8s.charts import machines, readme, values_of

ROOT = Path(__file__).parents[3]
CHARTS = sorted(path.parent for path in (ROOT / "helm").glob("*/Chart.yaml"))
each_chart = pytest.mark.parametrize("chart", CHARTS, ids=lambda chart: chart.name)


def test_there_are_two() -> None:
    assert [chart.name for chart in CHARTS] == ["a100-pool", "cclm-pretrain"]


@each_chart
def test_machines_are_those_of_the_named_resources(chart: Path) -> None:
    assert (chart / "machines.yaml").read_text() == machines(), "make it again: python -m k8s.charts machines > ..."


@each_chart
def test_readme_is_made_from_the_values(chart: Path) -> None:
    assert (chart / "README.md").read_text() == readme(chart), (
        "make it again: python -m k8s.charts readme ... > README.md"
    )


@each_chart
def test_the_app_of_a_chart_is_this_version(chart: Path) -> None:
    """The image's tag is the chart's appVersion where none is given."""
    assert yaml.safe_load((chart / "Chart.yaml").read_text())["appVersion"] == __version__


@each_chart
def test_schema_knows_every_value_and_no_other(chart: Path) -> None:
    def keys(schema: dict[str, Any], values: dict[str, Any]) -> None:
        assert schema["additionalProperties"] is False
        assert set(schema["properties"]) - {"global"} == set(values)
        for name, value in values.items():
            if "properties" in schema["properties"][name]:
                keys(schema["properties"][name], value)

    keys(json.loads((chart / "values.schema.json").read_text()), yaml.safe_load((chart / "values.yaml").read_text()))


def test_a_value_without_a_comment_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "values.yaml").write_text("# -- Said.\na: 1\nb:\n  # -- Said, too,\n  # in two lines.\n  c: []\n")
    assert [(one.key, one.default, one.text) for one in values_of(tmp_path)] == [
        ("a", 1, "Said."), ("b.c", [], "Said, too, in two lines."),
    ]  # fmt: skip
    (tmp_path / "values.yaml").write_text("# -- Said.\na: 1\n\nb: 2\n")
    with pytest.raises(ValueError, match="b has no comment"):
        values_of(tmp_path)
