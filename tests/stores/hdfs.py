"""A real NameNode and DataNode: Hadoop's own, from Maven Central, on any Java from 11 on."""

from __future__ import annotations

import fcntl
import io
import os
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from cclm.storage.hdfs import call_with_timeout

from .server import Server, StoreError, free_ports, listens
from .store import RunningStore

_POM = Path(__file__).with_name("pom.xml")
_PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
_MEMORY = "-Xmx256m"
_USER = "tests"  # the superuser: the one who starts the NameNode
# What Hadoop looks into by reflection and newer Javas hide.
_OPEN = [
    "--add-opens=java.base/java.lang=ALL-UNNAMED", "--add-exports=java.security.jgss/sun.security.krb5=ALL-UNNAMED",
]  # fmt: skip


def cache_folder() -> Path:
    """Where what tests fetch is kept: $CCLM_TEST_CACHE, else in the user's cache."""
    named = os.environ.get("CCLM_TEST_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(named) if named else Path(base) / "cclm-stores"


def archives() -> Path:
    """The folder of Hadoop's archives, fetched on first use. Raises StoreError."""
    version = ElementTree.parse(_POM).find(".//{*}dependency/{*}version")
    assert version is not None
    folder = cache_folder() / f"hadoop-{version.text}"
    for program in ("java", "mvn"):
        if not shutil.which(program):
            raise StoreError(f"HDFS needs {program} (Debian: apt-get install default-jre-headless maven)")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            new = folder.with_name(folder.name + ".new")
            shutil.rmtree(new, ignore_errors=True)
            command = ["mvn", "-q", "-B", "-f", str(_POM), _PLUGIN, f"-DoutputDirectory={new}"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
            if done.returncode != 0:
                raise StoreError(f"Maven could not fetch Hadoop: {(done.stdout + done.stderr).strip()[-500:]}")
            new.rename(folder)
    return folder


class HdfsStore(RunningStore):
    """HDFS with one DataNode, which can be killed alone."""

    def __init__(self, folder: Path, address: str = "127.0.0.1", inside: tuple[str, ...] = ()) -> None:
        """
        Args:
            address: where it listens.
            inside: words that run the rest of a command line in another network, which has this address.
        """
        self._rpc, *data_ports = free_ports(5)
        super().__init__("hdfs", f"hdfs://{address}:{self._rpc}/tests", {"HADOOP_USER_NAME": _USER})
        _configure(folder, address, self._rpc, data_ports)
        self._folder = folder
        classes = f"{folder / 'conf'}:{archives()}/*"
        java = [*inside, "java", _MEMORY, "-XX:TieredStopAtLevel=1", *_OPEN, "-cp", classes]
        server = "org.apache.hadoop.hdfs.server"
        self._name_class = [*java, f"{server}.namenode.NameNode"]
        env = {"HADOOP_USER_NAME": _USER}
        self.name_node = Server(self._name_class, folder, "namenode", env)
        self.data_node = Server([*java, f"{server}.datanode.DataNode"], folder, "datanode", env)

    def create(self) -> None:
        command = [*self._name_class, "-format", "-force", "-nonInteractive"]
        done = subprocess.run(command, cwd=self._folder, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode != 0:
            raise StoreError(f"the NameNode could not be formatted: {done.stderr[-500:]}")
        self.start()

    def start(self) -> None:
        self.name_node.start()
        self.data_node.start()
        self.name_node.wait_until(self._listens)
        self.data_node.wait_until(self._takes_files)

    def kill(self) -> None:
        self.name_node.kill()
        self.data_node.kill()

    @property
    def pids(self) -> list[int]:
        return [self.name_node.pid, self.data_node.pid]

    def _listens(self) -> bool:
        return listens(self._rpc)

    def _takes_files(self) -> bool:
        """A file can be written: the DataNode has come and safe mode is over."""
        from hdfs_native import Client

        def write() -> bool:
            client = Client(f"hdfs://127.0.0.1:{self._rpc}", {"dfs.client.failover.max.attempts": "1"})
            file = client.create("/ready-" + os.urandom(4).hex())
            try:
                file.write(b"x")
                file.close()
            finally:
                # Else garbage collection closes it once more, in the middle of any test, for as long as HDFS is away.
                io.RawIOBase.close(file)
            return True

        return call_with_timeout(20, write)


def _configure(folder: Path, address: str, rpc: int, ports: list[int]) -> None:
    name_http, data, data_http, data_ipc = ports
    conf = folder / "conf"
    for page in ("hdfs", "datanode"):  # the servers look for their web pages; empty will do
        (conf / "webapps" / page).mkdir(parents=True)
    _write(conf / "core-site.xml", {
        "fs.defaultFS": f"hdfs://{address}:{rpc}",
        "hadoop.tmp.dir": str(folder / "data"),
    })  # fmt: skip
    _write(conf / "hdfs-site.xml", {
        "dfs.replication": "1",
        "dfs.blocksize": str(16 << 20),
        "dfs.permissions.enabled": "true",
        "dfs.namenode.rpc-bind-host": address,
        "dfs.namenode.http-address": f"{address}:{name_http}",
        "dfs.namenode.safemode.extension": "0",
        "dfs.namenode.datanode.registration.ip-hostname-check": "false",  # not every address has a name
        "dfs.datanode.address": f"{address}:{data}",
        "dfs.datanode.http.address": f"{address}:{data_http}",
        "dfs.datanode.ipc.address": f"{address}:{data_ipc}",
        "dfs.datanode.hostname": address,
    })  # fmt: skip


def _write(path: Path, settings: dict[str, str]) -> None:
    root = ElementTree.Element("configuration")
    for name, value in settings.items():
        block = ElementTree.SubElement(root, "property")
        ElementTree.SubElement(block, "name").text = name
        ElementTree.SubElement(block, "value").text = value
    ElementTree.ElementTree(root).write(path)
