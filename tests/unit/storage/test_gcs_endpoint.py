"""What a first look at GCS asks for, where an endpoint is given."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cclm import storage
from cclm.storage.stores import open_store
from tests.stores.store import environment


class _EmptyBucket(BaseHTTPRequestHandler):
    """A bucket without objects."""

    requests: list[str]

    def do_GET(self) -> None:
        self.requests.append(self.path.partition("?")[0])
        is_there = self.path.endswith("/b/bucket") or "/o?" in self.path
        body = b"{}" if is_there else b'{"error": {"code": 404, "message": "No such object"}}'
        self.send_response(200 if is_there else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: object = "-", size: object = "-") -> None: ...

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Whatever is no GET, such as the preface of gRPC."""
        self.requests.append(self.raw_requestline.decode(errors="replace"))


@pytest.fixture
def bucket() -> Iterator[type[_EmptyBucket]]:
    handler = type("Handler", (_EmptyBucket,), {"requests": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with environment({"FSSPEC_GCS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}", storage.PATIENCE: "5"}):
            yield handler
        server.shutdown()


@pytest.mark.parametrize("hierarchical", ["true", "false"])
def test_a_first_look_asks_the_endpoint_for_the_object_alone(
    bucket: type[_EmptyBucket], monkeypatch: pytest.MonkeyPatch, hierarchical: str
) -> None:
    """gcsfs' default class asks for the bucket's storage layout before, by gRPC and not at the endpoint: a minute."""
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", hierarchical)
    assert not storage.exists("gs://bucket/x")
    path = "/storage/v1/b/bucket"
    # The object and the folder of its name are asked for at once: which comes first is a matter of chance.
    assert set(bucket.requests) == {f"{path}/o/x", f"{path}/o", path}
    store = open_store("gs://bucket/x").store
    assert not any(hasattr(system, "_storage_layout_cache") for system in (store._system, store._uploader))
