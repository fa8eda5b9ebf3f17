"""The dashboard of the GPUs and the network under a run: DCGM's metrics, joined to its pods."""

from k8s.monitoring.panels import OF_RUN, Dashboard, Look, Panel, Query, Row

_LEGEND = "{{pod}} GPU {{gpu}}"
_IDLE = "max by (UUID) (max_over_time(DCGM_FI_DEV_GPU_UTIL[10m])) < 5"


def _of_run(expression: str) -> str:
    """The series of an expression that has one for each UUID, but only of the run's GPUs, with pod and index."""
    return f"({expression}) * on (UUID) group_left (pod, gpu, Hostname) cclm:gpu_of_run{{{OF_RUN}}}"


def _gauge(metric: str, factor: str = "") -> list[Query]:
    return [Query(_of_run(f"{factor}max by (UUID) ({metric})"), _LEGEND)]


def _rate(metric: str, factor: str = "") -> list[Query]:
    return [Query(_of_run(f"{factor}max by (UUID) (rate({metric}[$__rate_interval]))"), _LEGEND)]


_WORK = (
    Panel(
        "Are the GPUs busy?",
        "Share of the time in which any kernel ran. A GPU that waits for others in a collective is busy, too.",
        "percentunit",
        "CclmThroughputDrop",
        _gauge("DCGM_FI_DEV_GPU_UTIL", "0.01 * "),
        minimum=0,
        maximum=1,
    ),
    Panel(
        "Do their tensor cores work?",
        "Share of the cycles in which the tensor pipe is active: what makes a run fast. Not seen on all clouds.",
        "percentunit",
        "CclmThroughputDrop",
        _gauge("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE"),
        minimum=0,
        maximum=1,
    ),
    Panel(
        "Is their memory the bottleneck?",
        "Share of the cycles in which the memory moves data.",
        "percentunit",
        "CclmThroughputDrop",
        _gauge("DCGM_FI_PROF_DRAM_ACTIVE"),
        minimum=0,
        maximum=1,
    ),
    Panel(
        "How full is their memory?",
        "Share of the memory that is in use, by all programs.",
        "percentunit",
        "CclmRestarts",
        [
            Query(
                _of_run(
                    "max by (UUID) (DCGM_FI_DEV_FB_USED) "
                    "/ (max by (UUID) (DCGM_FI_DEV_FB_USED) + max by (UUID) (DCGM_FI_DEV_FB_FREE))"
                ),
                _LEGEND,
            )
        ],
        minimum=0,
        maximum=1,
    ),
    Panel(
        "How fast do they run?",
        "Clock of the multiprocessors. One that is lower than the rest is too hot, or short of power.",
        "suffix: MHz",
        "CclmThroughputDrop",
        _gauge("DCGM_FI_DEV_SM_CLOCK"),
        minimum=0,
    ),
    Panel(
        "Which GPUs does nobody use?",
        "GPUs of the run that were below 5 % through the last 10 minutes, by pod.",
        "suffix: GPUs",
        "CclmNoProgress",
        [Query(f"count by (pod) ({_of_run(_IDLE)})", "{{pod}}")],
        Look.STACKED,
        minimum=0,
    ),
)

_HEALTH = (
    Panel(
        "Has a GPU reported an error?",
        "The last XID of each GPU, for as long as DCGM runs; 0 is none. The runbook says what the numbers mean.",
        "none",
        "CclmGpuXid",
        [Query(_of_run("cclm:gpu_xid"), _LEGEND)],
        minimum=0,
        limit=1,
    ),
    Panel(
        "Is their memory wearing out?",
        "Rows of memory that were replaced for errors that could not be corrected.",
        "suffix: rows",
        "CclmGpuXid",
        _gauge("DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS"),
        minimum=0,
    ),
    Panel(
        "How hot are they?",
        "Temperature of each GPU. They slow down by themselves at some 85 to 90 degrees.",
        "celsius",
        "CclmThroughputDrop",
        _gauge("DCGM_FI_DEV_GPU_TEMP"),
        minimum=0,
    ),
    Panel(
        "How much power do they draw?",
        "Of each GPU: 400 W is the most of an A100, 700 W of an H100.",
        "watt",
        "CclmThroughputDrop",
        _gauge("DCGM_FI_DEV_POWER_USAGE"),
        minimum=0,
        width=12,
    ),
    Panel(
        "How much energy has the run taken?",
        "In the time shown, by its GPUs alone, by pod.",
        "kwatth",
        "CclmThroughputDrop",
        [
            Query(
                "sum by (pod) ("
                + _of_run("max by (UUID) (increase(DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION[$__range])) / 3.6e9")
                + ")",
                "{{pod}}",
            )
        ],
        Look.RANKING,
        minimum=0,
        width=12,
    ),
)

_NETWORK = (
    Panel(
        "Which network do the nodes talk over?",
        "Pods by what NCCL has chosen: AWS Libfabric is EFA, IB InfiniBand, Socket TCP.",
        "suffix: pods",
        "CclmTcpFallback",
        [Query(f"sum by (backend, network) (cclm_transport_info{{{OF_RUN}}})", "{{backend}} {{network}}")],
        Look.STACKED,
        minimum=0,
    ),
    Panel(
        "How fast was it at the start?",
        "What each link carried in an all-reduce over all nodes before training (bus bandwidth).",
        "Bps",
        "CclmTcpFallback",
        [Query(f"max(cclm_preflight_bandwidth_bytes_per_second{{{OF_RUN}}})", "all-reduce")],
        minimum=0,
    ),
    Panel(
        "How much do pods send over TCP?",
        "Bytes a second through each pod's own network: reads and writes of stores, and all collectives where NCCL has "
        "fallen back to sockets. EFA does not pass through it, nor does a pod with the host's network.",
        "Bps",
        "CclmTcpFallback",
        [
            Query(
                "sum by (pod) (rate(container_network_transmit_bytes_total[$__rate_interval]) "
                f"* on (namespace, pod) group_left () group by (namespace, pod) (cclm_build_info{{{OF_RUN}}}))",
                "{{pod}}",
            )
        ],
        minimum=0,
    ),
    Panel(
        "Do the GPUs of a node talk over NVLink?",
        "DCGM's counter of all NVLink lanes a second, in its own unit (KiB on most drivers). Compare GPUs: one that is "
        "far below the rest has lost lanes.",
        "suffix: /s",
        "CclmGpuXid",
        _rate("DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL"),
        minimum=0,
        width=12,
    ),
    Panel(
        "How much goes over PCIe?",
        "Bytes a second that each GPU receives: batches, and what NVLink or RDMA do not carry.",
        "Bps",
        "CclmThroughputDrop",
        _gauge("DCGM_FI_PROF_PCIE_RX_BYTES"),
        minimum=0,
        width=12,
    ),
)

HARDWARE_DASHBOARD = Dashboard(
    "cclm-hardware",
    "cclm: hardware",
    "GPUs and network under one run: do they work, are they well, and how do they talk?",
    (Row("Work", _WORK), Row("Health", _HEALTH), Row("Network", _NETWORK)),
    has_run=True,
)
