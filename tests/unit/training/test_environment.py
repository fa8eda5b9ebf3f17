"""Threads, seeds and precision of a training process."""

import contextlib
import signal
import subprocess
import sys

import pytest
import torch

from cclm import storage
from cclm.training import environment
from cclm.training.environment import StopSignal, autocast, has_bfloat16_units, seed_of, usable_cores


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, usable_cores()),
        ({"OMP_NUM_THREADS": "1"}, 1),
        ({"OMP_NUM_THREADS": "1", "LOCAL_WORLD_SIZE": "2"}, max(1, usable_cores() // 2)),  # as torchrun sets it
        ({"OMP_NUM_THREADS": "2", "LOCAL_WORLD_SIZE": "1000"}, 2),
        ({"LOCAL_WORLD_SIZE": "1000"}, 1),
    ],
)
def test_threads(variables, expected):
    code = "import torch; from cclm.training.environment import set_threads; print(set_threads(torch.device('cpu')))"
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True)
    assert int(done.stdout) == expected


def test_seeds_differ_by_every_part_of_their_place():
    places = [(1, 2, "images", 0), (2, 2, "images", 0), (1, 3, "images", 0), (1, 2, "texts", 0), (1, 2, "images", 1)]
    seeds = {seed_of(*place) for place in places}
    assert len(seeds) == len(places)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_precision():
    cpu = torch.device("cpu")
    matrix = torch.ones(2, 2)
    for precision, expected in (("auto", torch.float32), ("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        with autocast(precision, cpu):
            assert (matrix @ matrix).dtype == expected


def sigterm() -> None:
    signal.raise_signal(signal.SIGTERM)


def test_sigterm_ends_at_once_what_has_nothing_to_save():
    """A second one, as a process group and its leader send, must not cut off what the first one makes clean up."""
    with StopSignal() as stop:
        with pytest.raises(SystemExit) as end:
            sigterm()
        sigterm()
    assert (end.value.code, stop.exit_code) == (143, 143)


def test_sigterm_is_remembered_while_there_is_something_to_save():
    with StopSignal() as stop, stop:  # the run enters it, and the loop
        stop.remember()
        sigterm()
        assert stop.received
        with pytest.raises(SystemExit), stop.leave_at_once():
            raise AssertionError("this began although the run is to stop")
        sigterm()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_long_work_between_saves_is_cut_off_and_the_loop_goes_on_remembering():
    with StopSignal() as stop:
        stop.remember()
        with stop.leave_at_once():
            pass
        sigterm()
        assert stop.received
    with StopSignal() as stop:
        stop.remember()
        with pytest.raises(SystemExit), stop.leave_at_once():
            sigterm()


def test_a_signal_shortens_the_waiting_for_stores(monkeypatch, ctrl_c_interrupts):
    """Also one that changes nothing else, since all have agreed to stop."""
    for remembers, settles, number in ((0, 0, "SIGTERM"), (1, 0, "SIGTERM"), (1, 1, "SIGTERM"), (1, 0, "SIGINT")):
        monkeypatch.setenv(storage.PATIENCE, "1000")
        hurried = []
        with StopSignal() as stop, stop.hurrying(lambda hurried=hurried: hurried.append("writer")):
            if remembers:
                stop.remember()
            if settles:
                stop.settle(own=False)
            with contextlib.nullcontext() if remembers else pytest.raises(SystemExit):
                signal.raise_signal(signal.Signals[number])
        assert (storage.patience(), hurried) == (3, ["writer"])


@pytest.fixture
def ctrl_c_interrupts():
    """As at a terminal; what a script runs in its background, such as these tests, is born deaf to Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c_interrupts")
def test_ctrl_c_is_remembered_once_and_only_where_there_is_something_to_save(capfd):
    with StopSignal() as stop:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert not stop.received
        stop.remember()
        signal.raise_signal(signal.SIGINT)
        assert (stop.received, stop.exit_code, stop.name) == (True, 130, "Ctrl-C")
        assert "Ctrl-C again leaves at once" in capfd.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_is_deaf_to_ctrl_c_stays_so(ctrl_c_interrupts):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with StopSignal() as stop:
        stop.remember()
        signal.raise_signal(signal.SIGINT)
        assert not stop.received
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


@pytest.mark.parametrize(("own", "code"), [(True, 143), (False, 202)])
def test_who_was_signalled_is_settled_when_all_agree_to_stop(own, code):
    with StopSignal() as stop:
        stop.remember()
        stop.settle(own)
        sigterm()  # as the launcher sends it to those that have not left yet
        assert stop.exit_code == code


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("flags\t\t: fpu avx2 avx512f avx512_bf16", True),
        ("flags\t\t: fpu avx2 amx_bf16", True),
        ("flags\t\t: fpu avx2 avx512f", False),
        ("Features\t: fp asimd bf16", True),
        ("Features\t: fp asimd", False),
        ("model name: unknown", True),
    ],
)
def test_units_for_bfloat16(tmp_path, line, expected):
    path = tmp_path / "cpuinfo"
    path.write_text(f"processor\t: 0\n{line}\n")
    assert has_bfloat16_units(path) == expected
    assert has_bfloat16_units(tmp_path / "absent")


def test_slow_bfloat16_is_warned_of(monkeypatch, caplog):
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    monkeypatch.setattr(environment, "has_bfloat16_units", lambda: False)
    for precision, device in (("auto", cpu), ("float32", cpu), ("auto", cuda), ("bfloat16", cuda)):
        environment.warn_of_slow_bfloat16(precision, device)
    assert not caplog.records
    environment.warn_of_slow_bfloat16("bfloat16", cpu)
    assert [record.message for record in caplog.records][0].startswith("training.precision=bfloat16: this processor")
