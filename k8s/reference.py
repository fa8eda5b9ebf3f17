"""docs/run-options.md, made from the tables of the code: `python -m k8s.reference > docs/run-options.md`."""

from __future__ import annotations

from k8s.options import Option, options_of
from k8s.resources import MACHINES, cpu_small
from k8s.settings import JobSettings

_SECTIONS = {
    "context": "Where the job lives",
    "queue": "Queue and priority",
    "capacity": "On which nodes",
    "lost_node_seconds": "What happens at faults",
    "service_account": "Identity and rights",
    "secrets": "Configuration and storage",
    "efa": "Network and devices",
}
"""The first option of a section -> its title."""

_INTRODUCTION = """\
# Run options and named resources on Kubernetes

What belongs to a run (config, nodes, image) are arguments of the component: `torchx run cclm.pretrain --help`. What
belongs to the cluster are run options of the scheduler `kubernetes`. `-cfg` gives them, and they stand before the
component:

    torchx run -s kubernetes -cfg queue=team-a,capacity=spot cclm.pretrain -h a100x8_p4d -j 2:4x8

In `.torchxconfig` of the working or home folder they hold for every run. `-cfg` wins.

```ini
[kubernetes]
namespace = team-a
queue = training
secrets = aws-credentials
volumes = pvc/images:/data:ro
```

Lists are `A;B`, pairs are `KEY:VALUE;KEY:VALUE`. No value can hold `,`, `;` or `=`. What cannot be used is refused
with one sentence before anything is created. Secrets are named here, and their values never enter a manifest. All
options have defaults that work on a cluster with nothing but the training operator.

This page is made by `python -m k8s.reference`; `torchx runopts kubernetes` prints the same options.
"""

_ALWAYS = """\
## What every job has

- `elasticPolicy` with min and max nodes of `-j`, and Workers only. The id of the rendezvous is the job's name.
- `restartPolicy: ExitCode`: pods that end with 128 and above are replaced, others end the job. `cclm launch` chooses
  the code and bounds the attempts, as the operator does not.
- `cleanPodPolicy: Running`: after a failure no pod holds GPUs, and the failed one stays for its log.
- Tolerations of the taints by which clouds mark GPU, EFA and (unless `capacity=on-demand`) spot nodes.
- PodSecurity "restricted": no root, no capabilities, seccomp profile, read-only root file system; `/tmp` and
  `/dev/shm` are volumes. No token for the cluster's API.
- Nobody moves a pod only to save a node: annotations for Karpenter and the cluster autoscaler. No Istio sidecar.
- Labels `app.kubernetes.io/part-of: cclm` (runs of cclm only), `managed-by: torchx`, `instance: JOB`.
- Environment: `TORCHX_REPLICA_ID`, `TORCHX_RANK0_HOST`, `CCLM_METRICS_PORT`. With EFA: `FI_PROVIDER=efa`, so that
  NCCL does not fall back to TCP in silence, and `FI_EFA_USE_HUGE_PAGE=0` unless `hugepages` asks for some.

With Kueue (`queue`) a job waits until there is quota for all nodes of `-j`. The least number of nodes counts only
later, when nodes fail.
"""

_RESOURCES = """\
## Named resources

`-h NAME` asks for a whole machine of that type. A pod gets 92 % of the CPUs and 95 % of the memory that the system
leaves; the rest is for the pods that every node runs. /dev/shm is part of that memory. `cpu_small` fits any node:
{cpus} CPU, {memory} MB.

| name | machine | GPUs | CPUs | memory, GB | EFA devices |
| --- | --- | --- | --- | --- | --- |
"""


def page() -> str:
    """The whole page, as Markdown."""
    parts = [_INTRODUCTION]
    for name, option in options_of(JobSettings).items():
        if name in _SECTIONS:
            parts.append(
                f"\n## {_SECTIONS[name]}\n\n| option | value | default | what it does |\n| --- | --- | --- | --- |\n"
            )
        parts.append(_row(option))
    small = cpu_small()
    parts += ["\n", _ALWAYS, "\n", _RESOURCES.format(cpus=small.cpu, memory=small.memMB)]
    for name, machine in MACHINES.items():
        asked = machine.resource
        parts.append(
            f"| `{name}` | {machine.instance_type} | {asked.gpu} | {asked.cpu} | {asked.memMB / 1000:.0f} "
            f"| {machine.efa or ''} |\n"
        )
    return "".join(parts)


def _row(option: Option) -> str:
    default = "" if option.default in (None, (), {}) else str(option.default)
    return f"| `{option.name}` | {option.form} | {default} | {option.text.replace('|', '/')} |\n"


if __name__ == "__main__":
    print(page(), end="")
