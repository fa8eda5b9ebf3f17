"""Stores in a cluster's own network: pods reach them at the control machine's address, a test by a forwarded port."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.stores.hdfs import HdfsStore
from tests.stores.objects import S3Store, s3_environment

from . import control, layout
from .cluster import Cluster
from .common import PROJECT


def _network(cluster: Cluster) -> tuple[str, ...]:
    """Words that run the rest of a command line in the network of the control machine."""
    return ("nsenter", f"--target={cluster.pid(layout.CONTROL)}", "--net", "--")


class ClusterS3(S3Store):
    """SeaweedFS on the control machine. `environment` is for this machine's clients, `pod_environment` for pods."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        super().__init__(folder, address=layout.GATEWAY, inside=_network(cluster))
        order = {"machine": layout.CONTROL, "host": layout.GATEWAY, "port": self.port}
        here = control.order(cluster.folder, "forward", **order)["port"]
        self.environment = s3_environment(f"http://127.0.0.1:{here}")
        self.pod_environment = s3_environment(f"http://{layout.GATEWAY}:{self.port}")

    def _listens(self) -> bool:
        return True  # the forwarded port listens always; whether files are taken is asked next


class ClusterHdfs(HdfsStore):
    """A NameNode and a DataNode on the control machine. Only processes in the cluster's network reach them."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self._inside = _network(cluster)
        super().__init__(folder, layout.GATEWAY, self._inside)

    def python(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run this Python in the cluster's network."""
        env = {**os.environ, **self.environment, "PYTHONPATH": str(PROJECT)}
        command = [*self._inside, sys.executable, *words]
        return subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=180, stdin=subprocess.DEVNULL, check=False
        )

    def _listens(self) -> bool:
        return True  # whether files are taken is asked next

    def _takes_files(self) -> bool:
        write = "import sys; from cclm import storage; storage.write_atomic(sys.argv[1], b'x')"
        return self.python("-c", write, f"{self.url}/ready").returncode == 0
