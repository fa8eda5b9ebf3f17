"""Run options whose values Kubernetes would refuse, each by itself."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from cclm.errors import UserError
from k8s.names import APP_LABEL, JOB_LABEL, MANAGED_BY_LABEL, PART_OF_LABEL
from k8s.quantities import bytes_of
from k8s.settings import JobSettings

_LABEL = r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_DOMAIN = r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*"
_KEY = re.compile(rf"({_DOMAIN}/)?{_LABEL}")
_MAX_NAME, _MAX_LABEL, _MAX_PORT = 253, 63, 65535

_OBJECTS = (
    "queue", "kueue_priority", "priority_class", "scheduler_name", "service_account", "runtime", "image_pull_secrets",
    "secrets", "config_maps",
)  # fmt: skip
"""Options that name objects of the cluster."""

_LEAST = {
    "gang_timeout": 1, "lost_node_seconds": 0, "grace_seconds": 1, "max_attempts": 1, "deadline_seconds": 1,
    "join_timeout": 1, "last_call_timeout": 1, "run_as_user": 0, "run_as_group": 0, "fs_group": -1, "efa": 0,
    "metrics_port": 0,
}  # fmt: skip
"""Options that are numbers -> the smallest one that makes sense."""

_OURS = (JOB_LABEL, APP_LABEL, PART_OF_LABEL, MANAGED_BY_LABEL, "app.kubernetes.io/name")
_OF_OPERATORS = ("training.kubeflow.org/", "kueue.x-k8s.io/", "trainer.kubeflow.org/", "jobset.sigs.k8s.io/")


def check_settings(settings: JobSettings) -> None:
    """Check each option by itself.

    Raises:
        UserError: names the option, and says what it may be.
    """
    if settings.namespace is not None and not _is_name(settings.namespace, _MAX_LABEL):
        raise UserError(f"run option namespace={settings.namespace}: {_names(_MAX_LABEL)}")
    for option in _OBJECTS:
        value = getattr(settings, option)
        for name in [value] if isinstance(value, str) else value or ():
            if not _is_name(name, _MAX_NAME):
                raise UserError(f"run option {option}={name}: {_names(_MAX_NAME)}")
    for option, least in _LEAST.items():
        number = getattr(settings, option)
        if number is not None and number < least:
            raise UserError(f"run option {option}={number}: {least} is the least")
    if settings.metrics_port > _MAX_PORT:
        raise UserError(f"run option metrics_port={settings.metrics_port}: a port is at most {_MAX_PORT}")
    for option in ("shm_size", "tmp_size", "ephemeral_storage", "hugepages"):
        amount = getattr(settings, option)
        if amount not in (None, "auto"):
            bytes_of(amount, f"run option {option}")
    _check_keys("annotations", settings.annotations)
    for option in ("labels", "node_selectors"):
        _check_keys(option, getattr(settings, option))
        for key, value in getattr(settings, option).items():
            if not re.fullmatch(f"({_LABEL})?", value):
                raise UserError(
                    f"run option {option}: {key}:{value}: a label has at most {_MAX_LABEL} letters, digits and -_., "
                    "and begins and ends with a letter or digit"
                )
    _check_labels(settings.labels)
    _check_keys("kueue_required_topology", filter(None, [settings.kueue_required_topology]))
    _check_keys("kueue_preferred_topology", filter(None, [settings.kueue_preferred_topology]))
    _check_devices(settings)
    for variable, source in settings.secret_env.items():
        secret, slash, key = source.partition("/")
        if not (slash and _is_name(secret, _MAX_NAME) and re.fullmatch(r"[A-Za-z0-9_.-]+", key)):
            raise UserError(f"run option secret_env: {variable}:{source} is not VARIABLE:SECRET/KEY")


def _is_name(text: str, most: int) -> bool:
    pattern = _DOMAIN if most == _MAX_NAME else r"[a-z0-9]([a-z0-9-]*[a-z0-9])?"
    return len(text) <= most and re.fullmatch(pattern, text) is not None


def _names(most: int) -> str:
    return f"a name has lower-case letters, digits and - (at most {most}), and begins and ends with a letter or digit"


def _check_keys(option: str, keys: Iterable[str]) -> None:
    for key in keys:
        if not _KEY.fullmatch(key):
            raise UserError(f"run option {option}: {key} is no key; keys are as team or example.com/team")


def _check_labels(labels: Mapping[str, str]) -> None:
    for key in labels:
        if key in _OURS or key.startswith(_OF_OPERATORS):
            raise UserError(f"run option labels: {key} is set by us or by an operator; choose another key")


def _check_devices(settings: JobSettings) -> None:
    for name, count in settings.devices.items():
        if not (_KEY.fullmatch(name) and "/" in name and count.isdecimal() and int(count) > 0):
            raise UserError(f"run option devices: {name}:{count} is not DEVICE:NUMBER, as rdma/hca:1")
