{{/* The PyTorchJob named .name with .replicas pods: the one that `torchx run` would submit for the same settings. */}}
{{- define "cclm-pretrain.jobObject" -}}
{{- $values := .root.Values -}}
{{- $machine := include "cclm-pretrain.machine" .root | fromJson -}}
{{- $min := include "cclm-pretrain.min" .root -}}
apiVersion: kubeflow.org/v1
kind: PyTorchJob
metadata:
  name: {{ .name }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "cclm-pretrain.podLabels" . | nindent 4 }}
    {{- with $values.queue.name }}
    kueue.x-k8s.io/queue-name: {{ . }}
    {{- end }}
    {{- with $values.queue.priority }}
    kueue.x-k8s.io/priority-class: {{ . }}
    {{- end }}
  {{- with $values.annotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  nprocPerNode: {{ max 1 (int $machine.gpus) | quote }}
  elasticPolicy:
    minReplicas: {{ $min }}
    maxReplicas: {{ int $values.nodes.max }}
    rdzvBackend: c10d
    rdzvId: {{ .name }}
    rdzvConf:
      - key: join_timeout
        value: {{ int $values.faults.joinTimeout | quote }}
      - key: last_call_timeout
        value: {{ int $values.faults.lastCallTimeout | quote }}
  runPolicy:
    cleanPodPolicy: Running
    {{- if not $values.faults.restartPods }}
    backoffLimit: 0
    {{- end }}
    {{- with $values.faults.deadlineSeconds }}
    activeDeadlineSeconds: {{ int . }}
    {{- end }}
    {{- if $values.scheduling.gang }}
    schedulingPolicy:
      minAvailable: {{ $min }}
      {{- with $values.scheduling.gangQueue }}
      queue: {{ . }}
      {{- end }}
      {{- with $values.scheduling.gangTimeout }}
      scheduleTimeoutSeconds: {{ int . }}
      {{- end }}
      {{- with include "cclm-pretrain.priorityClass" .root }}
      priorityClass: {{ . }}
      {{- end }}
    {{- end }}
  pytorchReplicaSpecs:
    Worker:
      replicas: {{ .replicas }}
      restartPolicy: ExitCode
      template:
        metadata:
          labels:
            {{- include "cclm-pretrain.podLabels" . | nindent 12 }}
          annotations:
            sidecar.istio.io/inject: "false"
            karpenter.sh/do-not-disrupt: "true"
            cluster-autoscaler.kubernetes.io/safe-to-evict: "false"
            {{- with $values.queue.requiredTopology }}
            kueue.x-k8s.io/podset-required-topology: {{ . }}
            {{- end }}
            {{- with $values.queue.preferredTopology }}
            kueue.x-k8s.io/podset-preferred-topology: {{ . }}
            {{- end }}
            {{- with $values.annotations }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
        spec:
          {{- include "cclm-pretrain.podSpec" . | nindent 10 }}
{{- end -}}
