"""Metrics of other programs that alerts and dashboards use, with the labels by which they do.

Those of cclm are in `cclm.metrics.catalogue`. Sources: dcgm-exporter 4 (etc/default-counters.csv and
etc/dcp-metrics-included.csv), Kueue 0.15 (pkg/metrics/metrics.go), training-operator 1.9.4 (pkg/common/metrics.go),
kube-state-metrics 2 (docs/metrics/workload/pod-metrics.md), and the kubelet's cAdvisor.
"""

from __future__ import annotations

from collections.abc import Mapping

_GPU = ("UUID", "Hostname", "gpu", "namespace", "pod", "exported_namespace", "exported_pod")
_OWN_POD = ("namespace", "pod", "uid")
_QUEUE = ("cluster_queue", "priority_class")
_OPERATOR = ("job_namespace", "framework")

OUTSIDE_METRICS: Mapping[str, tuple[str, ...]] = {
    # dcgm-exporter. Fields whose names have PROF need a GPU and a cloud that let DCGM profile.
    "DCGM_FI_DEV_GPU_UTIL": _GPU,
    "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE": _GPU,
    "DCGM_FI_PROF_DRAM_ACTIVE": _GPU,
    "DCGM_FI_PROF_PCIE_RX_BYTES": _GPU,
    "DCGM_FI_DEV_FB_USED": _GPU,
    "DCGM_FI_DEV_FB_FREE": _GPU,
    "DCGM_FI_DEV_SM_CLOCK": _GPU,
    "DCGM_FI_DEV_GPU_TEMP": _GPU,
    "DCGM_FI_DEV_POWER_USAGE": _GPU,
    "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": _GPU,
    "DCGM_FI_DEV_XID_ERRORS": _GPU,
    "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS": _GPU,
    "DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL": _GPU,
    # Kueue. The two of resources need its setting metrics.enableClusterQueueResources.
    "kueue_pending_workloads": ("cluster_queue", "status"),
    "kueue_admitted_workloads_total": _QUEUE,
    "kueue_admission_wait_time_seconds_bucket": (*_QUEUE, "le"),
    "kueue_evicted_workloads_total": (*_QUEUE, "reason", "underlying_cause"),
    "kueue_cluster_queue_resource_usage": ("cohort", "cluster_queue", "flavor", "resource"),
    "kueue_cluster_queue_nominal_quota": ("cohort", "cluster_queue", "flavor", "resource"),
    # The training operator.
    "training_operator_jobs_successful_total": _OPERATOR,
    "training_operator_jobs_failed_total": _OPERATOR,
    "training_operator_jobs_restarted_total": _OPERATOR,
    # kube-state-metrics.
    "kube_pod_status_phase": (*_OWN_POD, "phase"),
    "kube_pod_owner": (*_OWN_POD, "owner_kind", "owner_name"),
    "kube_pod_completion_time": _OWN_POD,
    "kube_pod_container_resource_requests": (*_OWN_POD, "container", "resource", "unit", "node"),
    # The kubelet.
    "container_network_transmit_bytes_total": ("namespace", "pod", "interface"),
}
"""Metric -> its labels."""
