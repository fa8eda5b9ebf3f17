"""What tests of training have in common."""

import pytest

from cclm import storage


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is stopped shortens the patience of its process with stores; that of later tests stays as it was."""
    monkeypatch.setenv(storage.PATIENCE, str(storage.patience()))
