"""EFA that is asked for. `fi_info` is a script that prints what the real one prints."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cclm.errors import NodeError, UserError
from cclm.preflight.efa import check_efa, is_efa_wanted

READY = """\
provider: efa
    fabric: efa
    domain: rdmap16s27-rdm
    version: 122.0
    type: FI_EP_RDM
    protocol: FI_PROTO_EFA"""


@pytest.fixture
def cards(tmp_path: Path) -> Path:
    folder = tmp_path / "infiniband"
    folder.mkdir()
    (folder / "uverbs0").touch()
    (folder / "uverbs1").touch()
    return folder


@pytest.mark.parametrize(("provider", "is_wanted"), [("efa", True), ("EFA,tcp", True), ("tcp", False), ("", False)])
def test_who_asks_for_it(provider: str, is_wanted: bool) -> None:
    assert is_efa_wanted({"FI_PROVIDER": provider}) == is_wanted
    assert not is_efa_wanted({})


def test_it_is_ready(cards: Path, program: Callable[[str, str], None]) -> None:
    program("fi_info", f"[ \"$*\" = '-p efa -t FI_EP_RDM' ] && cat <<END\n{READY}\nEND")
    assert check_efa(cards) == "EFA with 2 cards"


def test_the_pod_did_not_ask_for_cards(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no card; ask for vpc.amazonaws.com/efa"):
        check_efa(tmp_path)


def test_the_image_has_no_libfabric(cards: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="the image has no fi_info"):
        check_efa(cards)


def test_the_card_does_not_work(cards: Path, program: Callable[[str, str], None]) -> None:
    program("fi_info", "echo 'fi_getinfo: -61 (No data available)' >&2; exit 61")
    with pytest.raises(NodeError, match=r"\(uverbs0, uverbs1\): fi_getinfo: -61 \(No data available\); "):
        check_efa(cards)
