{{/* Name of the pool and of its objects. */}}
{{- define "a100-pool.name" -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "a100-pool.labels" -}}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: cclm
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{/* Facts of the first machine as JSON; the others have the same GPUs and devices, or rendering fails. */}}
{{- define "a100-pool.machine" -}}
{{- $known := .Files.Get "machines.yaml" | fromYaml -}}
{{- $first := dict -}}
{{- range $type := .Values.machines -}}
{{- if not (hasKey $known $type) -}}
{{- fail (printf "machines: %s is not known; known are %s" $type (keys $known | sortAlpha | join ", ")) -}}
{{- end -}}
{{- $machine := get $known $type -}}
{{- if ne $machine.cloud $.Values.cloud -}}
{{- fail (printf "machines: %s is a machine of %s, and cloud is %s" $type $machine.cloud $.Values.cloud) -}}
{{- end -}}
{{- if not $first -}}
{{- $first = $machine -}}
{{- else if or (ne (int $machine.gpus) (int $first.gpus)) (ne (int $machine.efa) (int $first.efa)) -}}
{{- fail (printf "machines: %s has other GPUs or EFA devices than %s; make a pool of its own for it" $type (first $.Values.machines)) -}}
{{- end -}}
{{- end -}}
{{- $first | toJson -}}
{{- end -}}

{{/* Checks that a schema cannot make. Every template that renders something includes it. */}}
{{- define "a100-pool.check" -}}
{{- if not .Values.cloud -}}{{- fail "cloud: say eks or gke" -}}{{- end -}}
{{- if not .Values.machines -}}{{- fail "machines: name at least one, as p4d.24xlarge" -}}{{- end -}}
{{- if not .Values.zone -}}{{- fail "zone: name the one zone of all nodes, as us-east-1a" -}}{{- end -}}
{{- $machine := include "a100-pool.machine" . | fromJson -}}
{{- if and (eq (toString .Values.efa) "true") (not (int $machine.efa)) -}}
{{- fail (printf "efa: a %s has no EFA devices; leave efa out" (first .Values.machines)) -}}
{{- end -}}
{{- $reserved := has "reserved" .Values.capacity -}}
{{- if eq .Values.cloud "eks" -}}
{{- if not .Values.eks.role -}}{{- fail "eks.role: name the IAM role of the nodes" -}}{{- end -}}
{{- if and (not .Values.eks.clusterName) (not (and .Values.eks.subnetSelectorTerms .Values.eks.securityGroupSelectorTerms)) -}}
{{- fail "eks.clusterName: name the cluster, or give eks.subnetSelectorTerms and eks.securityGroupSelectorTerms" -}}
{{- end -}}
{{- if and $reserved (not .Values.eks.capacityReservations) -}}
{{- fail "eks.capacityReservations: capacity has reserved, so name the reservations" -}}
{{- end -}}
{{- if and .Values.eks.capacityReservations (not $reserved) -}}
{{- fail "eks.capacityReservations: they are used only if capacity has reserved" -}}
{{- end -}}
{{- else -}}
{{- if and $reserved (not .Values.gke.reservations) -}}
{{- fail "gke.reservations: capacity has reserved, so name the reservations" -}}
{{- end -}}
{{- if and .Values.gke.reservations (not $reserved) -}}
{{- fail "gke.reservations: they are used only if capacity has reserved" -}}
{{- end -}}
{{- if and .Values.gke.flexStart (not (has "on-demand" .Values.capacity)) -}}
{{- fail "gke.flexStart: it is a way to order on-demand nodes, so capacity must have on-demand" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Whether pods get EFA devices: "true" or empty. */}}
{{- define "a100-pool.efa" -}}
{{- $machine := include "a100-pool.machine" . | fromJson -}}
{{- if and (int $machine.efa) (ne (toString .Values.efa) "false") -}}true{{- end -}}
{{- end -}}

{{/* The taint that keeps other pods off GPU nodes: GKE sets it itself, with this value. */}}
{{- define "a100-pool.gpuTaint" -}}
key: nvidia.com/gpu
value: {{ ternary "true" "present" (eq .Values.cloud "eks") | quote }}
effect: NoSchedule
{{- end -}}
