"""One tiny demo world for all tests here; tests only read it."""

from pathlib import Path

import pytest

from cclm.demo.world import DemoSize, make_demo_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "world"
    make_demo_world(out, size=DemoSize.TINY, as_published=True, progress=False)
    return out
