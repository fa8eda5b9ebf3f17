"""Files of the charts are made from the code and from each other."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from k8s.charts import machines, readme, values_of

ROOT = Path(__file__).parents[3]
POOL = ROOT / "helm" / "a100-pool"


def test_machines_are_those_of_the_named_resources() -> None:
    assert (POOL / "machines.yaml").read_text() == machines(), "make it again: python -m k8s.charts machines > ..."


def test_readme_is_made_from_the_values() -> None:
    assert (POOL / "README.md").read_text() == readme(POOL), (
        "make it again: python -m k8s.charts readme ... > README.md"
    )


def test_schema_knows_every_value_and_no_other() -> None:
    def keys(schema: dict[str, Any], values: dict[str, Any]) -> None:
        assert schema["additionalProperties"] is False
        assert set(schema["properties"]) - {"global"} == set(values)
        for name, value in values.items():
            if "properties" in schema["properties"][name]:
                keys(schema["properties"][name], value)

    keys(json.loads((POOL / "values.schema.json").read_text()), yaml.safe_load((POOL / "values.yaml").read_text()))


def test_a_value_without_a_comment_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "values.yaml").write_text("# -- Said.\na: 1\nb:\n  # -- Said, too,\n  # in two lines.\n  c: []\n")
    assert [(one.key, one.default, one.text) for one in values_of(tmp_path)] == [
        ("a", 1, "Said."), ("b.c", [], "Said, too, in two lines."),
    ]  # fmt: skip
    (tmp_path / "values.yaml").write_text("# -- Said.\na: 1\n\nb: 2\n")
    with pytest.raises(ValueError, match="b has no comment"):
        values_of(tmp_path)
