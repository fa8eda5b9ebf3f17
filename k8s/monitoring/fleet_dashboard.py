"""The dashboard of all runs beside each other."""

from k8s.monitoring.panels import BY_RUN, NAMESPACE, RUN, Dashboard, Look, Panel, Query, Row

_NAME = f"{{{{{NAMESPACE}}}}} {{{{{RUN}}}}}"
"""Legend: the run of a series."""
_WAIT = "rate(kueue_admission_wait_time_seconds_bucket[$__rate_interval])"
_USED = f"sum {BY_RUN} (sum_over_time(cclm:gpus_held[$__range])) / 60"
_STEPPED = f"sum {BY_RUN} (sum_over_time(cclm:gpus_stepping[$__range])) / 60"

_RUNS = (
    Panel(
        "How far is each run?",
        "Outer steps that are done, of all.",
        "percentunit",
        "CclmNoProgress",
        [Query(f"max {BY_RUN} (cclm_train_step) / max {BY_RUN} (cclm_train_steps_planned)", _NAME)],
        Look.RANKING,
        minimum=0,
        maximum=1,
    ),
    Panel(
        "When will each be done?",
        "What the steps left take at the speed of the last interval.",
        "s",
        "CclmThroughputDrop",
        [Query(f"max {BY_RUN} (cclm_eta_seconds)", _NAME)],
        Look.RANKING,
        minimum=0,
    ),
    Panel(
        "What are all pods doing?",
        "Pods of all runs in each phase.",
        "suffix: pods",
        "CclmNoProgress",
        [Query("sum by (phase) (cclm_phase)", "{{phase}}")],
        Look.STACKED,
        minimum=0,
    ),
    Panel(
        "How fast is each?",
        "Samples a second over all pods of a run, by the clock.",
        "suffix: samples/s",
        "CclmThroughputDrop",
        [Query(f"sum {BY_RUN} (rate(cclm_samples_total[$__rate_interval]))", _NAME)],
        minimum=0,
    ),
    Panel(
        "How much of what its GPUs can do does each use?",
        "Operations of forward and backward passes as a share of the GPUs' peak (MFU).",
        "percentunit",
        "CclmThroughputDrop",
        [Query(f"max {BY_RUN} (cclm_model_flops_utilization_ratio)", _NAME)],
        minimum=0,
        maximum=1,
    ),
    Panel(
        "How old is each one's newest checkpoint?",
        "What a restart now would lose.",
        "s",
        "CclmCheckpointTooOld",
        [Query(f"time() - max {BY_RUN} (cclm_checkpoint_timestamp_seconds)", _NAME)],
        minimum=0,
        limit=7200,
    ),
)

_QUEUE = (
    Panel(
        "How many jobs wait in each queue?",
        "Kueue's: active ones are in line; inadmissible ones wait for something to change.",
        "suffix: jobs",
        "CclmQueueWait",
        [Query("sum by (cluster_queue, status) (kueue_pending_workloads)", "{{cluster_queue}} {{status}}")],
        Look.STACKED,
        minimum=0,
    ),
    Panel(
        "How long did jobs wait?",
        "From creation to admission, of those that were admitted: half of them waited less than the median.",
        "s",
        "CclmQueueWait",
        [
            Query(f"histogram_quantile(0.5, sum by (le, cluster_queue) ({_WAIT}))", "{{cluster_queue}} median"),
            Query(f"histogram_quantile(0.9, sum by (le, cluster_queue) ({_WAIT}))", "{{cluster_queue}} 90 %"),
        ],
        minimum=0,
    ),
    Panel(
        "How much of the GPU quota is used?",
        "Of each cluster queue. Above 1 it borrows. Kueue tells that only with metrics.enableClusterQueueResources.",
        "percentunit",
        "CclmQueueWait",
        [
            Query(
                'sum by (cluster_queue) (kueue_cluster_queue_resource_usage{resource="nvidia.com/gpu"}) '
                '/ sum by (cluster_queue) (kueue_cluster_queue_nominal_quota{resource="nvidia.com/gpu"})',
                "{{cluster_queue}}",
            )
        ],
        minimum=0,
        limit=1,
    ),
    Panel(
        "Why were jobs put back into a queue?",
        "Evictions an interval by Kueue's reason.",
        "suffix: jobs",
        "CclmQueueWait",
        [
            Query(
                "sum by (cluster_queue, reason) (increase(kueue_evicted_workloads_total[$__rate_interval]))",
                "{{cluster_queue}}: {{reason}}",
            )
        ],
        Look.BARS,
        minimum=0,
        width=12,
    ),
    Panel(
        "Which jobs have pods without a node?",
        "Pods that Kubernetes has made and placed nowhere, by job. kube-state-metrics tells.",
        "suffix: pods",
        "CclmPodsPending",
        [
            Query(
                "sum by (namespace, owner_name) ("
                '(max by (namespace, pod) (kube_pod_status_phase{phase="Pending"}) == 1) '
                "* on (namespace, pod) group_left (owner_name) "
                'max by (namespace, pod, owner_name) (kube_pod_owner{owner_kind="PyTorchJob"}))',
                "{{namespace}} {{owner_name}}",
            )
        ],
        Look.STACKED,
        minimum=0,
        width=12,
    ),
)

_HOURS = (
    Panel(
        "Who used GPU hours?",
        "Hours for which pods of each job held GPUs in the time shown. kube-state-metrics tells how many.",
        "h",
        "CclmQueueWait",
        [Query(_USED, _NAME)],
        Look.RANKING,
        minimum=0,
    ),
    Panel(
        "How many of them were wasted?",
        "GPU hours in which no step was computed: start, waiting for data, nodes or stores, saving, evaluation. Steps "
        "that a restart made again are not counted in it.",
        "h",
        "CclmNoProgress",
        [Query(f"{_USED} - ({_STEPPED} or 0 * {_USED})", _NAME)],
        Look.RANKING,
        minimum=0,
    ),
    Panel(
        "How many GPUs are held, and how many compute steps?",
        "Over all runs. The gap is waste.",
        "suffix: GPUs",
        "CclmDataWait",
        [Query("sum(cclm:gpus_held)", "held"), Query("sum(cclm:gpus_stepping)", "computing steps")],
        minimum=0,
    ),
)

_FAILURES = (
    Panel(
        "What interrupted the runs?",
        "Restarts of processes in the time shown by cause, over all runs. Of each run, the pod counts that saw most.",
        "suffix: restarts",
        "CclmRestarts",
        [
            Query(
                f"sum by (cause) (max by ({NAMESPACE}, {RUN}, cause) ("
                f"sum by ({NAMESPACE}, {RUN}, pod, cause) (increase(cclm_restarts_total[$__range])))) > 0.5",
                "{{cause}}",
            )
        ],
        Look.RANKING,
        minimum=0,
        width=12,
    ),
    Panel(
        "How did jobs end?",
        "Jobs an hour, as the training operator counts them.",
        "suffix: jobs/h",
        "CclmRunFailed",
        [
            Query("3600 * sum(rate(training_operator_jobs_successful_total[1h]))", "succeeded"),
            Query("3600 * sum(rate(training_operator_jobs_failed_total[1h]))", "failed"),
            Query("3600 * sum(rate(training_operator_jobs_restarted_total[1h]))", "a pod was made anew"),
        ],
        minimum=0,
        width=12,
    ),
)

FLEET_DASHBOARD = Dashboard(
    "cclm-fleet",
    "cclm: fleet",
    "All runs beside each other: what do they do, what do they wait for, and what do they cost?",
    (Row("Runs", _RUNS), Row("Queue", _QUEUE), Row("GPU hours", _HOURS), Row("Failures", _FAILURES)),
    has_run=False,
)
