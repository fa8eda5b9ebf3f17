"""Stores in a cluster's own network: pods reach them at the control machine's address, a test by a forwarded port."""

from __future__ import annotations

from pathlib import Path

from tests.stores.objects import S3Store, s3_environment

from . import control, layout
from .cluster import Cluster


class ClusterS3(S3Store):
    """SeaweedFS on the control machine. `environment` is for this machine's clients, `pod_environment` for pods."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        enter = ("nsenter", f"--target={cluster.pid(layout.CONTROL)}", "--net", "--")
        super().__init__(folder, address=layout.GATEWAY, inside=enter)
        order = {"machine": layout.CONTROL, "host": layout.GATEWAY, "port": self.port}
        here = control.order(cluster.folder, "forward", **order)["port"]
        self.environment = s3_environment(f"http://127.0.0.1:{here}")
        self.pod_environment = s3_environment(f"http://{layout.GATEWAY}:{self.port}")

    def _listens(self) -> bool:
        return True  # the forwarded port listens always; whether files are taken is asked next
