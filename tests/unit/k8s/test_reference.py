"""The page of run options says what the code says, and the tests of options know each of them."""

from pathlib import Path

from k8s.options import options_of
from k8s.reference import page
from k8s.settings import JobSettings
from tests.unit.k8s.option_values import VALUES, combinations

ROOT = Path(__file__).parents[3]


def test_page_is_made_from_the_tables() -> None:
    written = (ROOT / "docs" / "run-options.md").read_text(encoding="utf-8")
    assert written == page(), "make it again: python -m k8s.reference > docs/run-options.md"


def test_each_option_has_values_in_the_tests_on_a_cluster() -> None:
    assert VALUES.keys() == options_of(JobSettings).keys()


def test_any_two_values_of_different_options_meet() -> None:
    rows = combinations(["a", "b"], {}, JobSettings())
    met = {
        (one, str(getattr(settings, one)), two, str(getattr(settings, two)))
        for _, settings in rows
        for one in ("capacity", "spread_hosts", "same_zone", "metrics_port")
        for two in ("gang", "restart_pods", "shm_size", "restricted")
    }
    assert len(met) == 3 * 4 * 2 * 4
    assert any(settings.kueue_priority and settings.queue for _, settings in rows)
