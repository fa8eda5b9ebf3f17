{{/* Name of all objects but those of one run. */}}
{{- define "cclm-pretrain.name" -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "cclm-pretrain.labels" -}}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: cclm
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "cclm-pretrain.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{/* Name of the job, and of the config that belongs to it. An upgrade that changes either makes new ones, since a job
that runs must not change: pods that are replaced later would differ from the others. */}}
{{- define "cclm-pretrain.job" -}}
{{- $hash := printf "%s%s" (include "cclm-pretrain.jobObject" (dict "root" . "name" "NAME" "replicas" 0)) (include "cclm-pretrain.config" .) | sha256sum | trunc 6 -}}
{{- $last := sub (int .Values.nodes.max) 1 | toString -}}
{{- $room := sub 63 (len (printf "-%s-worker-%s" $hash $last)) | int -}}
{{- printf "%s-%s" (.Release.Name | trunc $room | trimSuffix "-") $hash -}}
{{- end -}}

{{/* Whether the run draws the demo world and trains on it: "true" or empty. */}}
{{- define "cclm-pretrain.isDemo" -}}
{{- if not (or .Values.config .Values.configFile) -}}true{{- end -}}
{{- end -}}

{{/* The run's YAML; empty if the config is in the image. */}}
{{- define "cclm-pretrain.config" -}}
{{- if .Values.config -}}
{{- toYaml .Values.config -}}
{{- else if not .Values.configFile -}}
{{- .Files.Get "files/demo.yaml" | trim -}}
{{- end -}}
{{- end -}}

{{/* What a node has, as JSON: cpu, gpus, memMB, efa, and selector, the labels of its machine type. */}}
{{- define "cclm-pretrain.machine" -}}
{{- $nodes := .Values.nodes -}}
{{- $known := dict -}}
{{- range $type, $machine := .Files.Get "machines.yaml" | fromYaml -}}
{{- $_ := set $known $machine.resource (merge (dict "type" $type) $machine) -}}
{{- end -}}
{{- if $nodes.machine -}}
{{- if not (hasKey $known $nodes.machine) -}}
{{- fail (printf "nodes.machine: %s is not known; known are %s" $nodes.machine (keys $known | sortAlpha | join ", ")) -}}
{{- end -}}
{{- $machine := get $known $nodes.machine -}}
{{- $selector := dict "node.kubernetes.io/instance-type" $machine.type -}}
{{- with $machine.accelerator -}}{{- $_ := set $selector "cloud.google.com/gke-accelerator" . -}}{{- end -}}
{{- dict "type" $machine.type "cpu" $machine.cpu "gpus" $machine.gpus "memMB" $machine.memMB "efa" $machine.efa "selector" $selector | toJson -}}
{{- else -}}
{{- dict "cpu" $nodes.cpu "gpus" $nodes.gpu "memMB" $nodes.memoryMB "efa" 0 "selector" dict | toJson -}}
{{- end -}}
{{- end -}}

{{/* EFA devices of a pod. */}}
{{- define "cclm-pretrain.efa" -}}
{{- $machine := include "cclm-pretrain.machine" . | fromJson -}}
{{- if kindIs "invalid" .Values.nodes.efa -}}{{- int $machine.efa -}}{{- else -}}{{- int .Values.nodes.efa -}}{{- end -}}
{{- end -}}

{{/* GPUs and other devices of a pod as a JSON list of name and count, in the order of TorchX's job. */}}
{{- define "cclm-pretrain.devices" -}}
{{- $machine := include "cclm-pretrain.machine" . | fromJson -}}
{{- $found := list -}}
{{- if int $machine.gpus -}}{{- $found = append $found (dict "name" "nvidia.com/gpu" "count" (int $machine.gpus)) -}}{{- end -}}
{{- $efa := include "cclm-pretrain.efa" . | int -}}
{{- if $efa -}}{{- $found = append $found (dict "name" "vpc.amazonaws.com/efa" "count" $efa) -}}{{- end -}}
{{- range $name, $count := .Values.nodes.devices -}}
{{- $found = append $found (dict "name" $name "count" (int $count)) -}}
{{- end -}}
{{- $found | toJson -}}
{{- end -}}

{{- define "cclm-pretrain.processes" -}}
{{- $machine := include "cclm-pretrain.machine" . | fromJson -}}
{{- .Values.nodes.processes | default (max 1 (int $machine.gpus)) | int -}}
{{- end -}}

{{- define "cclm-pretrain.min" -}}
{{- .Values.nodes.min | default .Values.nodes.max | int -}}
{{- end -}}

{{/* MiB of an amount as 512Mi or 64Gi, rounded up. */}}
{{- define "cclm-pretrain.mebibytes" -}}
{{- $number := regexFind "^[0-9]+" . | int64 -}}
{{- $unit := regexFind "[A-Za-z]+$" . -}}
{{- $factors := dict "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "M" 1000000 "G" 1000000000 "T" 1000000000000 -}}
{{- div (add (mul $number (get $factors $unit | int64)) 1048575) 1048576 -}}
{{- end -}}

{{/* MiB of /dev/shm. */}}
{{- define "cclm-pretrain.sharedMemory" -}}
{{- $machine := include "cclm-pretrain.machine" . | fromJson -}}
{{- if ne .Values.nodes.shmSize "auto" -}}
{{- include "cclm-pretrain.mebibytes" .Values.nodes.shmSize -}}
{{- else if int $machine.gpus -}}
{{- mul 8192 (int $machine.gpus) -}}
{{- else -}}
512
{{- end -}}
{{- end -}}

{{/* A word as a shell takes it. Every $ is doubled, since Kubernetes makes one of two. */}}
{{- define "cclm-pretrain.word" -}}
{{- if regexMatch "^[a-zA-Z0-9@%+=:,./_-]+$" . -}}
{{- . -}}
{{- else -}}
{{- printf "'%s'" (. | replace "'" "'\"'\"'" | replace "$" "$$") -}}
{{- end -}}
{{- end -}}

{{/* Where the config is, seen from the pods. */}}
{{- define "cclm-pretrain.configPath" -}}
{{- .Values.configFile | default "/etc/cclm/run.yaml" -}}
{{- end -}}

{{/* Whether the output folder is a volume of the pods: "true" or empty. */}}
{{- define "cclm-pretrain.hasOutputFolder" -}}
{{- if or .Values.output.claim.create .Values.output.claim.existing (not .Values.output.url) -}}true{{- end -}}
{{- end -}}

{{- define "cclm-pretrain.outputClaim" -}}
{{- if .Values.output.claim.create -}}
{{- include "cclm-pretrain.name" . -}}-output
{{- else -}}
{{- .Values.output.claim.existing -}}
{{- end -}}
{{- end -}}

{{- define "cclm-pretrain.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "cclm-pretrain.name" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "cclm-pretrain.priorityClass" -}}
{{- if .Values.priorityClass.create -}}
{{- .Values.priorityClass.name | default (printf "%s-%s" .Release.Namespace (include "cclm-pretrain.name" .)) -}}
{{- else -}}
{{- .Values.priorityClass.name -}}
{{- end -}}
{{- end -}}

{{/* The pods' labels of the job named .name; .root is the root context. */}}
{{- define "cclm-pretrain.podLabels" -}}
{{- with .root.Values.labels }}
{{- toYaml . }}
{{ end -}}
cclm.dev/release: {{ .root.Release.Name }}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .name }}
app.kubernetes.io/managed-by: torchx
torchx.pytorch.org/app-name: {{ .root.Chart.Name }}
torchx.pytorch.org/role-name: cclm
app.kubernetes.io/part-of: cclm
{{- end -}}
