{{/* What contradicts itself, each in a sentence. The schema has seen names and types before. */}}
{{- define "cclm-pretrain.check" -}}
{{- include "cclm-pretrain.checkCluster" . -}}
{{- include "cclm-pretrain.checkNodes" . -}}
{{- include "cclm-pretrain.checkEnvironment" . -}}
{{- include "cclm-pretrain.checkStorage" . -}}
{{- include "cclm-pretrain.checkBatches" . -}}
{{- end -}}

{{/* What the cluster must know. `helm template` asks no cluster, and knows the built-in versions without their kinds. */}}
{{- define "cclm-pretrain.checkCluster" -}}
{{- if not (regexMatch "^[a-z]([a-z0-9-]*[a-z0-9])?$" .Release.Name) -}}
{{- fail (printf "release %s: pods are named after it, so it has lower-case letters, digits and - only, and a letter first" .Release.Name) -}}
{{- end -}}
{{- if .Capabilities.APIVersions.Has "v1/Pod" -}}
{{- if not (.Capabilities.APIVersions.Has "kubeflow.org/v1/PyTorchJob") -}}
{{- fail "this cluster has no PyTorchJob: install the training operator 1.9 first (docs/kubernetes.md)" -}}
{{- end -}}
{{- $operator := "monitoring.coreos.com/v1" -}}
{{- if and .Values.monitoring.podMonitor.enabled (not (.Capabilities.APIVersions.Has (printf "%s/PodMonitor" $operator))) -}}
{{- fail "monitoring.podMonitor.enabled: this cluster has no PodMonitor; install the Prometheus Operator, or leave it off" -}}
{{- end -}}
{{- if and .Values.monitoring.alerts.enabled (not (.Capabilities.APIVersions.Has (printf "%s/PrometheusRule" $operator))) -}}
{{- fail "monitoring.alerts.enabled: this cluster has no PrometheusRule; install the Prometheus Operator, or leave it off" -}}
{{- end -}}
{{- if and .Values.queue.name (not (.Capabilities.APIVersions.Has "kueue.x-k8s.io/v1beta1")) (not (.Capabilities.APIVersions.Has "kueue.x-k8s.io/v1beta2")) -}}
{{- fail (printf "queue.name: this cluster has no Kueue, so queue %s cannot be; install Kueue, or leave it out" .Values.queue.name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "cclm-pretrain.checkNodes" -}}
{{- $nodes := .Values.nodes -}}
{{- $min := include "cclm-pretrain.min" . | int -}}
{{- if gt $min (int $nodes.max) -}}
{{- fail (printf "nodes.min: %d is more than nodes.max, which is %d" $min (int $nodes.max)) -}}
{{- end -}}
{{- $machine := include "cclm-pretrain.machine" . | fromJson -}}
{{- $gpus := int $machine.gpus -}}
{{- $processes := include "cclm-pretrain.processes" . | int -}}
{{- if and $gpus (gt $processes $gpus) -}}
{{- fail (printf "nodes.processes: %d processes on a node of %d GPUs; each needs a GPU of its own" $processes $gpus) -}}
{{- end -}}
{{- if and $nodes.machine (gt (include "cclm-pretrain.efa" . | int) (int $machine.efa)) -}}
{{- $has := ternary (printf "%d EFA devices" (int $machine.efa)) "no EFA devices" (gt (int $machine.efa) 0) -}}
{{- fail (printf "nodes.efa: %d, and a %s has %s; leave it out" (int $nodes.efa) $machine.type $has) -}}
{{- end -}}
{{- if le (int .Values.faults.graceSeconds) 30 -}}
{{- fail (printf "faults.graceSeconds: %d does not exceed the 30 s that processes get to save; make it 60" (int .Values.faults.graceSeconds)) -}}
{{- end -}}
{{- $queue := .Values.queue -}}
{{- if and (not $queue.name) (or $queue.priority $queue.requiredTopology $queue.preferredTopology) -}}
{{- fail "queue.name: queue.priority and the topologies are Kueue's; name the queue" -}}
{{- end -}}
{{- if and $queue.requiredTopology $queue.preferredTopology -}}
{{- fail "queue.requiredTopology and queue.preferredTopology: give one of them" -}}
{{- end -}}
{{- $scheduling := .Values.scheduling -}}
{{- if and (not $scheduling.gang) (or $scheduling.gangQueue (not (kindIs "invalid" $scheduling.gangTimeout))) -}}
{{- fail "scheduling.gangQueue and scheduling.gangTimeout need scheduling.gang" -}}
{{- end -}}
{{- $security := .Values.security -}}
{{- if and $security.restricted (or $security.ipcLock .Values.network.hostNetwork (eq (toString $security.runAsUser) "0")) -}}
{{- fail "security.restricted excludes security.ipcLock, network.hostNetwork and root; set it to false with them" -}}
{{- end -}}
{{- if eq (int .Values.network.metricsPort) (int .Values.network.rendezvousPort) -}}
{{- fail (printf "network.metricsPort and network.rendezvousPort are both %d; choose another one" (int .Values.network.metricsPort)) -}}
{{- end -}}
{{- if and .Values.monitoring.podMonitor.enabled (not (int .Values.network.metricsPort)) -}}
{{- fail "monitoring.podMonitor.enabled: network.metricsPort is 0, so there is nothing to scrape" -}}
{{- end -}}
{{- if and .Values.rbac.create (not .Values.rbac.subjects) -}}
{{- fail "rbac.subjects: say who gets the Role" -}}
{{- end -}}
{{- range $key := list "cclm.dev/release" "app.kubernetes.io/name" "app.kubernetes.io/instance" "app.kubernetes.io/managed-by" "app.kubernetes.io/part-of" "torchx.pytorch.org/app-name" "torchx.pytorch.org/role-name" -}}
{{- if hasKey $.Values.labels $key -}}{{- fail (printf "labels: %s is set by the chart; choose another key" $key) -}}{{- end -}}
{{- end -}}
{{- end -}}

{{- define "cclm-pretrain.checkEnvironment" -}}
{{- range $name := concat (keys .Values.env) (keys .Values.secretEnv) | sortAlpha -}}
{{- if regexMatch "^(PET_.*|MASTER_ADDR|MASTER_PORT|WORLD_SIZE|RANK)$" $name -}}
{{- fail (printf "env: %s is set by the training operator; leave it out" $name) -}}
{{- end -}}
{{- end -}}
{{- range $name := keys .Values.env | sortAlpha -}}
{{- if hasKey $.Values.secretEnv $name -}}
{{- fail (printf "%s is in env and in secretEnv; give it once" $name) -}}
{{- end -}}
{{- if regexMatch "(?i)^(.*(SECRET|SECRET_ACCESS_KEY|SESSION_TOKEN|PASSWORD|PASSWD|API_KEY|API_TOKEN)|HF_TOKEN)$" $name -}}
{{- fail (printf "env: %s is a secret, and all who see the job could read it; keep it in a Secret, and name that in secretEnv or secrets" $name) -}}
{{- end -}}
{{- end -}}
{{- range $name := keys .Values.secretEnv | sortAlpha -}}
{{- $secret := (get $.Values.secretEnv $name).secret -}}
{{- if has $secret $.Values.secrets -}}
{{- fail (printf "secretEnv.%s: all keys of the secret %s come by secrets already; name it in one of the two" $name $secret) -}}
{{- end -}}
{{- end -}}
{{- if ne (len .Values.secrets) (len (uniq .Values.secrets)) -}}{{- fail "secrets: one stands there twice" -}}{{- end -}}
{{- $annotations := .Values.serviceAccount.annotations -}}
{{- if and $annotations (not .Values.serviceAccount.create) -}}
{{- fail "serviceAccount.annotations: an existing service account has its own; set serviceAccount.create, or leave them out" -}}
{{- end -}}
{{- if and (hasKey $annotations "eks.amazonaws.com/role-arn") (hasKey .Values.secretEnv "AWS_ACCESS_KEY_ID") -}}
{{- fail "secretEnv.AWS_ACCESS_KEY_ID: the service account has a role (eks.amazonaws.com/role-arn), which keys would hide; give one of the two" -}}
{{- end -}}
{{- if and (hasKey $annotations "iam.gke.io/gcp-service-account") (hasKey .Values.secretEnv "GOOGLE_APPLICATION_CREDENTIALS") -}}
{{- fail "secretEnv.GOOGLE_APPLICATION_CREDENTIALS: the service account stands for one of Google (iam.gke.io/gcp-service-account); give one of the two" -}}
{{- end -}}
{{- end -}}

{{- define "cclm-pretrain.checkStorage" -}}
{{- if and .Values.config .Values.configFile -}}{{- fail "config and configFile: give one of them" -}}{{- end -}}
{{- $claim := .Values.output.claim -}}
{{- $several := gt (int .Values.nodes.max) 1 -}}
{{- if and $claim.create $claim.existing -}}
{{- fail "output.claim.create and output.claim.existing: give one of them" -}}
{{- end -}}
{{- if and $several (not .Values.output.url) (not $claim.create) (not $claim.existing) -}}
{{- fail "nodes.max: several nodes need an output that all of them reach; give output.url or output.claim" -}}
{{- end -}}
{{- if and $several $claim.create (hasPrefix "ReadWriteOnce" $claim.accessMode) -}}
{{- fail (printf "output.claim.accessMode: %s is for one node, and nodes.max is %d; leave it out" $claim.accessMode (int .Values.nodes.max)) -}}
{{- end -}}
{{- $paths := list -}}
{{- range include "cclm-pretrain.volumes" (dict "root" . "name" "") | fromJsonArray -}}
{{- $path := trimSuffix "/" .path -}}
{{- if has $path $paths -}}{{- fail (printf "volumes: two things are mounted at %s; leave one of them out" .path) -}}{{- end -}}
{{- $paths = append $paths $path -}}
{{- end -}}
{{- end -}}

{{/* Each number of nodes to which the run may come must divide the batches that the values show. */}}
{{- define "cclm-pretrain.checkBatches" -}}
{{- $sizes := dict -}}
{{- if include "cclm-pretrain.isDemo" . -}}
{{- $sizes = dict "data.images.batch_size" 64 "data.images_mono.batch_size" 64 "data.texts.batch_size" 64 -}}
{{- else -}}
{{- $data := get .Values.config "data" -}}
{{- if kindIs "map" $data -}}
{{- range $kind := list "images" "regions" "images_mono" "texts" -}}
{{- $source := get $data $kind -}}
{{- if kindIs "map" $source -}}
{{- range $key := list "batch_size" "max_images" -}}
{{- if hasKey $source $key -}}{{- $_ := set $sizes (printf "data.%s.%s" $kind $key) (get $source $key) -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range .Values.overrides -}}
{{- if regexMatch "^data\\.(images|regions|images_mono|texts)\\.(batch_size|max_images)=[0-9]+$" . -}}
{{- $_ := set $sizes (regexFind "^[^=]+" .) (regexFind "[0-9]+$" .) -}}
{{- end -}}
{{- end -}}
{{- $processes := include "cclm-pretrain.processes" . | int -}}
{{- $min := include "cclm-pretrain.min" . | int -}}
{{- range $nodes := untilStep $min (add 1 (int .Values.nodes.max) | int) 1 -}}
{{- $all := mul $nodes $processes | int -}}
{{- range $name, $size := $sizes -}}
{{- if mod (int $size) $all -}}
{{- fail (printf "%s: a batch of %d cannot be shared by %d processes (%d nodes with %d each); make it a multiple of %d" $name (int $size) $all $nodes $processes $all) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
