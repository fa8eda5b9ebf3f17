"""Files of an earlier run are set aside, each time under a name of their own."""

from cclm import storage
from cclm.metrics.metrics_file import METRICS
from cclm.training import run_files


def test_runs_set_aside_within_a_second(tmp_path, monkeypatch):
    monkeypatch.setattr(run_files.time, "strftime", lambda _: "earlier-20260101-000000")
    for content in "123":
        (tmp_path / "metrics.jsonl").write_text(content)
        run_files.set_aside(str(tmp_path))
    names = ["earlier-20260101-000000", "earlier-20260101-000000-2", "earlier-20260101-000000-3"]
    assert [(tmp_path / name / "metrics.jsonl").read_text() for name in names] == ["1", "2", "3"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_runs_set_aside_in_a_store_within_a_second(tmp_path, monkeypatch):
    monkeypatch.setattr(run_files.time, "strftime", lambda _: "earlier")
    place = f"memory://{tmp_path.name}"
    files = {"earlier-2": "metrics.jsonl", "earlier-3": "log.txt"}
    manifest = f"{place}/step-00000005/manifest"
    storage.write_atomic(f"{manifest}.json", b"first")
    run_files.set_aside(place)  # leaves no folder, only the manifest's name
    for name in files.values():
        storage.write_atomic(f"{place}/{name}", name.encode())
        storage.write_atomic(f"{manifest}.json", name.encode())
        run_files.set_aside(place)
    assert storage.read_bytes(f"{manifest}-earlier.json") == b"first"
    for aside, name in files.items():
        assert storage.read_bytes(f"{place}/{aside}/{name}") == name.encode()
        assert storage.read_bytes(f"{manifest}-{aside}.json") == name.encode()


def test_metrics_that_another_process_replaces_while_they_are_fetched_are_fetched_whole(tmp_path, monkeypatch):
    """A machine that is cut off trains on, and sends with each checkpoint, while its replacement starts."""
    place = f"memory://{tmp_path.name}"
    remote = storage.join(place, METRICS)
    storage.write_atomic(remote, b"1\n")
    read = storage.access.read_ranges

    def read_late(url, ranges):
        data = read(url, ranges)
        if data == [b"1\n"]:
            storage.write_atomic(remote, b"1\n2\n")
        return data

    monkeypatch.setattr(storage.access, "read_ranges", read_late)
    run_files.fetch_logs([place], tmp_path)
    assert (tmp_path / METRICS).read_bytes() == b"1\n2\n"
