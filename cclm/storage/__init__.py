"""Bytes of files behind URLs and paths: the only package that knows about stores.

It takes paths, `hdfs://` (by hdfs-native), `s3://` (s3fs), `gs://` (gcsfs), and any other scheme that fsspec opens.
Options come from the environment variables of these libraries (`FSSPEC_S3_ENDPOINT_URL`, `HADOOP_CONF_DIR`, ...). A
store is opened on first use, once in each process. So modules that call these functions work in DataLoader workers,
however those were started.

Every function may raise AccessDenied (a UserError), StoreUnavailable (an outage outlasted `patience()`) and, for other
refusals, OSError. Each message is one sentence. A file that is written becomes visible whole or not at all.

- `access`: the functions of this package
- `patience`: errors and retries
- `observation`: who hears of calls, retries, bytes and outages
- `stores`: which store a URL means
- `hdfs`, `objects`: the stores, and the faults of their libraries that are worked around
- `local`: files of this machine
- `types`: the interface of a store
"""

from cclm.storage.access import (
    FileStat,
    delete,
    delete_folder,
    download,
    exists,
    fingerprint,
    is_file,
    is_folder,
    is_local,
    join,
    list_entries,
    list_files,
    local_path,
    modified,
    name,
    parent,
    put_file,
    read_bytes,
    read_range,
    read_ranges,
    size,
    write_atomic,
    write_new,
    write_unless,
)
from cclm.storage.interface import Entry, is_partial
from cclm.storage.observation import Outcome, StorageObserver, set_observer
from cclm.storage.patience import (
    PATIENCE,
    AccessDenied,
    MissingBucket,
    ShortReadError,
    StoreUnavailable,
    hurry,
    patience,
    set_patience,
)
from cclm.storage.stores import reopen

__all__ = [
    "PATIENCE", "AccessDenied", "Entry", "FileStat", "MissingBucket", "Outcome", "ShortReadError",
    "StorageObserver", "StoreUnavailable", "delete", "delete_folder", "download", "exists", "fingerprint",
    "hurry", "is_file", "is_folder", "is_local", "is_partial", "join", "list_entries", "list_files", "local_path",
    "modified", "name", "parent", "patience", "put_file", "read_bytes", "read_range", "read_ranges", "reopen",
    "set_observer", "set_patience", "size", "write_atomic", "write_new", "write_unless",
]  # fmt: skip
