"""Run options: one table, read strictly, in the types of TorchX."""

import dataclasses
from typing import Any

import pytest

from cclm.errors import UserError
from k8s.options import options_of
from k8s.settings import JobSettings, run_options


def given(text: str) -> JobSettings:
    """Settings of a command line's `-cfg`, as TorchX makes them."""
    options = run_options()
    return JobSettings.from_config(options.resolve(options.cfg_from_str(text)))


def test_nothing_given_gives_the_defaults() -> None:
    assert given("") == JobSettings() == JobSettings.from_config({})


def test_every_field_is_an_option_with_its_default_and_a_help() -> None:
    names = {field.name for field in dataclasses.fields(JobSettings)}
    options = dict(run_options())
    assert options.keys() == names == options_of(JobSettings).keys()
    assert all(len(item.help) > 10 for item in options.values())


def test_lists_pairs_numbers_and_booleans() -> None:
    settings = given("tolerations=a:NoSchedule;b,labels=team:x;cost:y,grace_seconds=90,restricted=False,queue=q")
    assert settings.tolerations == ("a:NoSchedule", "b")
    assert settings.labels == {"team": "x", "cost": "y"}
    assert (settings.grace_seconds, settings.restricted, settings.queue) == (90, False, "q")


def test_values_may_come_as_text() -> None:
    """TorchX hands on numbers of a .torchxconfig, and of optional arguments, as text."""
    settings = JobSettings.from_config({"efa": "4", "gang": "false", "volumes": "pvc/a:/a;pvc/b:/b", "queue": None})
    assert (settings.efa, settings.gang, settings.volumes, settings.queue) == (
        4, False, ("pvc/a:/a", "pvc/b:/b"), None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("queu=a", "there is no run option queu; did you mean queue?"),
        ("namespace=a,b", "namespace=a,b: a value cannot hold , or ;"),
        ("namespace=a;b", "namespace=a;b: a value cannot hold , or ;"),
        ("labels=a:b;c", "c is not KEY:VALUE"),
        ("annotations=a:b,c,queue=d", "c is not KEY:VALUE"),
        ("grace_seconds=ten", "grace_seconds=ten: not a whole number"),
        ("restricted=maybe", "restricted=maybe: write true or false"),
        ("capacity=cheap", "capacity=cheap: write any or spot or on-demand"),
        ("queue=a=b", "a value cannot hold ="),
        ("queue", "write them as key=value"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        given(text)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cfg", [{"queu": "a"}, {"efa": True}, {"efa": "four"}, {"backend": "job"}])
def test_a_mistake_in_a_program_is_one_sentence(cfg: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        JobSettings.from_config(cfg)
