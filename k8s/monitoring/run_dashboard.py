"""The dashboard of one training run."""

from k8s.monitoring.panels import OF_RUN, Dashboard, Look, Panel, Query, Row

_PARTS = f"max by (part) (rate(cclm_step_seconds_total{{{OF_RUN}}}[$__rate_interval]))"
_DATA = f'sum by (pod) (rate(cclm_step_seconds_total{{{OF_RUN}, part="data"}}[$__rate_interval]))'
_ALL = f"sum by (pod) (rate(cclm_step_seconds_total{{{OF_RUN}}}[$__rate_interval]))"
_PADDING = (
    f'1 - sum(rate(cclm_tokens_total{{{OF_RUN}, state="real"}}[$__rate_interval])) '
    f'/ sum(rate(cclm_tokens_total{{{OF_RUN}, state="computed"}}[$__rate_interval]))'
)
_SPEED = f"cclm:samples_per_process_second:rate10m{{{OF_RUN}}}"

_PROGRESS = (
    Panel(
        "How far is the run?",
        "Outer steps that are done, of all. A restart takes it back to the step of the checkpoint.",
        "percentunit",
        "CclmNoProgress",
        [Query(f"max(cclm_train_step{{{OF_RUN}}}) / max(cclm_train_steps_planned{{{OF_RUN}}})", "done")],
        Look.NUMBER,
        minimum=0,
        maximum=1,
        width=6,
    ),
    Panel(
        "When will it be done?",
        "What the steps left take at the speed of the last interval, evaluation and interruptions not counted.",
        "s",
        "CclmThroughputDrop",
        [Query(f"max(cclm_eta_seconds{{{OF_RUN}}})", "time left")],
        Look.NUMBER,
        width=6,
    ),
    Panel(
        "How old is the newest checkpoint?",
        "What a restart now would lose. By default a checkpoint is due every 10 minutes of training.",
        "s",
        "CclmCheckpointTooOld",
        [Query(f"time() - max(cclm_checkpoint_timestamp_seconds{{{OF_RUN}}})", "age")],
        Look.NUMBER,
        limit=7200,
        width=6,
    ),
    Panel(
        "How many starts in a row came to no checkpoint?",
        "The launcher gives up after --max-attempts, 5 by default.",
        "short",
        "CclmAttemptsWithoutCheckpoint",
        [Query(f"max(cclm_attempts{{{OF_RUN}}})", "starts")],
        Look.NUMBER,
        limit=3,
        width=6,
    ),
    Panel(
        "Are steps being made?",
        "Outer steps a minute, those that a restart makes again included. Zero while the run saves or evaluates.",
        "suffix: steps/min",
        "CclmNoProgress",
        [Query(f"60 * max(rate(cclm_train_steps_total{{{OF_RUN}}}[$__rate_interval]))", "steps")],
        minimum=0,
    ),
    Panel(
        "What are its pods doing?",
        "Pods in each phase.",
        "suffix: pods",
        "CclmNoProgress",
        [Query(f"sum by (phase) (cclm_phase{{{OF_RUN}}})", "{{phase}}")],
        Look.STACKED,
        minimum=0,
    ),
    Panel(
        "How much of each source has it seen?",
        "Passes over the records of each source.",
        "suffix: epochs",
        "CclmNoProgress",
        [Query(f"max by (source) (cclm_epochs_done{{{OF_RUN}}})", "{{source}}")],
        minimum=0,
    ),
)

_LEARNING = (
    Panel(
        "Are the losses falling?",
        "Mean of each loss in the last interval, not weighted, by kind of batch.",
        "none",
        "CclmLossNotFinite",
        [Query(f"max by (kind, loss) (cclm_loss{{{OF_RUN}}})", "{{kind}} {{loss}}")],
        width=12,
    ),
    Panel(
        "Are the gradients calm?",
        "Mean norm of the gradients before clipping, by kind of batch. A rise often precedes an infinite loss.",
        "none",
        "CclmLossNotFinite",
        [Query(f"max by (kind) (cclm_gradient_norm{{{OF_RUN}}})", "{{kind}}")],
        minimum=0,
        width=12,
    ),
    Panel(
        "Were updates left out?",
        "Updates with gradients that were not finite, with training.on_divergence: skip. Without it, one ends the run.",
        "suffix: updates",
        "CclmLossNotFinite",
        [Query(f"max by (kind) (increase(cclm_updates_skipped_total{{{OF_RUN}}}[$__rate_interval]))", "{{kind}}")],
        Look.BARS,
        minimum=0,
    ),
    Panel(
        "Which learning rate is it at?",
        "Of the first group of parameters.",
        "none",
        "CclmLossNotFinite",
        [Query(f"max(cclm_learning_rate{{{OF_RUN}}})", "learning rate")],
        minimum=0,
    ),
    Panel(
        "How sharp is the contrastive loss?",
        "Its temperature, which is learnt: lower is sharper.",
        "none",
        "CclmLossNotFinite",
        [Query(f"max(cclm_temperature{{{OF_RUN}}})", "temperature")],
        minimum=0,
    ),
    Panel(
        "How good is it in each language?",
        "Mean recall of retrieval, or accuracy, in the last evaluation of each split.",
        "percentunit",
        "CclmLossNotFinite",
        [
            Query(
                f'max by (split, language, metric) (cclm_score_ratio{{{OF_RUN}, metric=~"r_mean|accuracy"}})',
                "{{language}} {{split}}",
            )
        ],
        minimum=0,
        maximum=1,
        width=24,
    ),
)

_SPEED_PANELS = (
    Panel(
        "How fast does it train?",
        "Samples a second over all pods, by the clock: saving, evaluation and restarts count.",
        "suffix: samples/s",
        "CclmThroughputDrop",
        [Query(f"sum by (kind) (rate(cclm_samples_total{{{OF_RUN}}}[$__rate_interval]))", "{{kind}}")],
        Look.STACKED,
        minimum=0,
    ),
    Panel(
        "Is it as fast as it was?",
        "Samples a second and process while steps are made, and the median of the last 6 hours. The alert begins 30 % "
        "below that.",
        "suffix: samples/s",
        "CclmThroughputDrop",
        [Query(_SPEED, "now"), Query(f"quantile_over_time(0.5, {_SPEED}[6h])", "median of 6 h")],
        minimum=0,
    ),
    Panel(
        "How much of what the GPUs can do does it use?",
        "Operations of the model's forward and backward passes as a share of the GPUs' peak (MFU). No data where that "
        "is not known, as on CPUs.",
        "percentunit",
        "CclmThroughputDrop",
        [Query(f"max(cclm_model_flops_utilization_ratio{{{OF_RUN}}})", "MFU")],
        minimum=0,
        maximum=1,
    ),
    Panel(
        "Where does a step's time go?",
        "Shares of the time by part. NCCL's communication is in compute, since it runs on the GPU beside the rest.",
        "percentunit",
        "CclmThroughputDrop",
        [Query(f"{_PARTS} / on () group_left () sum({_PARTS})", "{{part}}")],
        Look.STACKED,
        minimum=0,
        maximum=1,
    ),
    Panel(
        "Which pod waits for data?",
        "Share of each pod's time in which it waits for the next batch. All others then wait for that pod.",
        "percentunit",
        "CclmDataWait",
        [Query(f"{_DATA} / {_ALL}", "{{pod}}")],
        minimum=0,
        maximum=1,
        limit=0.2,
    ),
    Panel(
        "How much of the text that it computes is padding?",
        "Share of the tokens that are padding.",
        "percentunit",
        "CclmThroughputDrop",
        [Query(_PADDING, "padding")],
        minimum=0,
        maximum=1,
    ),
    Panel(
        "How much memory do the devices have in use?",
        "Of the first device of each pod, as PyTorch sees it. Other programs on the GPU do not count.",
        "bytes",
        "CclmRestarts",
        [Query(f"max by (pod, state) (cclm_device_memory_bytes{{{OF_RUN}}})", "{{pod}} {{state}}")],
        minimum=0,
    ),
)

_DATA_PANELS = (
    Panel(
        "Are records broken?",
        "Broken records an interval by source and reason. Each is replaced by the next good one.",
        "suffix: records",
        "CclmRecordsSkipped",
        [
            Query(
                # Every source has a series for each reason; those that are 0 would fill the legend.
                f"sum by (source, reason) (increase(cclm_records_skipped_total{{{OF_RUN}}}[$__rate_interval])) > 0",
                "{{source}}: {{reason}}",
            )
        ],
        Look.BARS,
        minimum=0,
    ),
    Panel(
        "How much is read and written?",
        "Bytes a second that calls to stores moved, over all pods.",
        "Bps",
        "CclmDataWait",
        [
            Query(
                f"sum by (store, direction) (rate(cclm_storage_bytes_total{{{OF_RUN}}}[$__rate_interval]))",
                "{{store}} {{direction}}",
            )
        ],
        minimum=0,
    ),
    Panel(
        "Do the stores answer?",
        "Time that calls lost to outages in each second, over all pods and calls. Above 0, a store was away.",
        "suffix: s/s",
        "CclmCheckpointFailing",
        [Query(f"sum by (store) (rate(cclm_storage_outage_seconds_total{{{OF_RUN}}}[$__rate_interval]))", "{{store}}")],
        minimum=0,
    ),
)

_SURVIVAL = (
    Panel(
        "How long does a checkpoint take?",
        "From the copy to memory until it is durable. Training goes on meanwhile.",
        "s",
        "CclmCheckpointTooOld",
        [Query(f"max(cclm_checkpoint_save_seconds{{{OF_RUN}}})", "save")],
        minimum=0,
    ),
    Panel(
        "How much time does training lose to checkpoints?",
        "Share of the time in which training stands still for them.",
        "percentunit",
        "CclmThroughputDrop",
        [Query(f"max(rate(cclm_checkpoint_blocked_seconds_total{{{OF_RUN}}}[$__rate_interval]))", "standing still")],
        minimum=0,
    ),
    Panel(
        "Are checkpoints kept?",
        "Checkpoints an interval that are whole in one place, and those that could not be written.",
        "suffix: checkpoints",
        "CclmCheckpointFailing",
        [
            Query(f"sum(increase(cclm_checkpoints_saved_total{{{OF_RUN}}}[$__rate_interval]))", "kept"),
            Query(f"sum(increase(cclm_checkpoint_failures_total{{{OF_RUN}}}[$__rate_interval]))", "failed"),
        ],
        Look.BARS,
        minimum=0,
    ),
    Panel(
        "What interrupted it?",
        "Restarts of processes in the time shown, by cause, as the pod counted them that saw most. To a pod whose own "
        "processes were well, it is membership: another one left or came.",
        "suffix: restarts",
        "CclmRestarts",
        [
            Query(
                f"max by (cause) (sum by (pod, cause) (increase(cclm_restarts_total{{{OF_RUN}}}[$__range]))) > 0.5",
                "{{cause}}",
            )
        ],
        Look.RANKING,
        minimum=0,
        width=12,
    ),
    Panel(
        "Are all nodes there?",
        "Nodes that are present, and the bounds of what is wanted.",
        "suffix: nodes",
        "CclmPodsPending",
        [Query(f"max by (state) (cclm_nodes{{{OF_RUN}}})", "{{state}}")],
        minimum=0,
        width=12,
    ),
)

RUN_DASHBOARD = Dashboard(
    "cclm-run",
    "cclm: training run",
    "One run: does it learn, how fast, and would it survive?",
    (
        Row("Progress", _PROGRESS),
        Row("Learning", _LEARNING),
        Row("Speed", _SPEED_PANELS),
        Row("Data", _DATA_PANELS),
        Row("Checkpoints and restarts", _SURVIVAL),
    ),
    has_run=True,
)
