{{/* The command that the pods of the job named .name run. */}}
{{- define "cclm-pretrain.command" -}}
{{- $values := .root.Values -}}
{{- $endpoint := "localhost:0" -}}
{{- if gt (int $values.nodes.max) 1 -}}
{{- $endpoint = printf "\"${PET_RDZV_ENDPOINT:-${TORCHX_RANK0_HOST:-localhost}:%d}\"" (int $values.network.rendezvousPort) -}}
{{- end -}}
{{- $min := include "cclm-pretrain.min" .root | int -}}
{{- $max := int $values.nodes.max -}}
{{- $range := ternary (toString $max) (printf "%d:%d" $min $max) (eq $min $max) -}}
{{- $words := list "pretrain" "--resume" $values.resume (include "cclm-pretrain.configPath" .root) -}}
{{- if include "cclm-pretrain.hasOutputFolder" .root -}}
{{- $words = append $words "output_dir=/output" -}}
{{- with $values.output.url -}}{{- $words = append $words (printf "output_hdfs=%s" .) -}}{{- end -}}
{{- else -}}
{{- $words = append $words (printf "output_dir=%s" $values.output.url) -}}
{{- end -}}
{{- if not (kindIs "invalid" $values.seed) -}}{{- $words = append $words (printf "seed=%d" (int $values.seed)) -}}{{- end -}}
{{- with $values.checkpoint -}}{{- $words = append $words (printf "model.weights=%s" .) -}}{{- end -}}
{{- $quoted := list -}}
{{- range concat $words $values.overrides -}}{{- $quoted = append $quoted (include "cclm-pretrain.word" .) -}}{{- end -}}
exec cclm launch --rdzv-endpoint {{ $endpoint }} --rdzv-backend c10d --rdzv-id {{ .name }} --nnodes {{ $range }} --nproc-per-node {{ include "cclm-pretrain.processes" .root }} --max-restarts {{ int $values.maxRestarts }}{{ if not $values.preflight }} --no-preflight{{ end }} -- {{ join " " $quoted }}
{{- end -}}

{{/* Environment of the container. */}}
{{- define "cclm-pretrain.environment" -}}
{{- $values := .root.Values -}}
{{- $defaults := list -}}
{{- if int $values.network.metricsPort -}}
{{- $defaults = append $defaults (list "CCLM_METRICS_PORT" (toString (int $values.network.metricsPort))) -}}
{{- end -}}
{{- if not (kindIs "invalid" $values.faults.maxAttempts) -}}
{{- $defaults = append $defaults (list "CCLM_MAX_ATTEMPTS" (toString (int $values.faults.maxAttempts))) -}}
{{- end -}}
{{- $devices := include "cclm-pretrain.devices" .root | fromJsonArray -}}
{{- range $devices -}}
{{- if eq .name "vpc.amazonaws.com/efa" -}}
{{- $defaults = concat $defaults (list (list "FI_PROVIDER" "efa") (list "FI_EFA_USE_DEVICE_RDMA" "1") (list "NCCL_SOCKET_IFNAME" "^lo,docker,veth")) -}}
{{- if not $values.nodes.hugepages -}}{{- $defaults = append $defaults (list "FI_EFA_USE_HUGE_PAGE" "0") -}}{{- end -}}
{{- end -}}
{{- end -}}
- name: TORCHX_REPLICA_ID
  valueFrom:
    fieldRef:
      fieldPath: metadata.labels['training.kubeflow.org/replica-index']
- name: CCLM_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
- name: TORCHX_RANK0_HOST
  value: {{ .name }}-worker-0
{{- range $defaults }}
{{- if not (hasKey $values.env (first .)) }}
- name: {{ first . }}
  value: {{ last . | quote }}
{{- end }}
{{- end }}
{{- range $name, $value := $values.env }}
- name: {{ $name }}
  value: {{ $value | replace "$" "$$" | quote }}
{{- end }}
- name: TORCHX_JOB_ID
  value: kubernetes://torchx/$(CCLM_NAMESPACE):{{ .name }}
{{- range $name, $source := $values.secretEnv }}
- name: {{ $name }}
  valueFrom:
    secretKeyRef:
      name: {{ $source.secret }}
      key: {{ $source.key }}
{{- end }}
{{- end -}}

{{/* Volumes of the run, as a JSON list of those of the value `volumes`. */}}
{{- define "cclm-pretrain.volumes" -}}
{{- $found := list -}}
{{- if include "cclm-pretrain.config" .root -}}
{{- $found = append $found (dict "configMap" .name "path" "/etc/cclm" "readOnly" true) -}}
{{- end -}}
{{- if include "cclm-pretrain.outputClaim" .root -}}
{{- $found = append $found (dict "claim" (include "cclm-pretrain.outputClaim" .root) "path" "/output") -}}
{{- else if include "cclm-pretrain.hasOutputFolder" .root -}}
{{- $found = append $found (dict "emptyDir" .root.Values.output.claim.size "path" "/output") -}}
{{- end -}}
{{- if include "cclm-pretrain.isDemo" .root -}}
{{- $found = append $found (dict "emptyDir" "10Gi" "path" "/demo") -}}
{{- end -}}
{{- concat $found .root.Values.volumes | toJson -}}
{{- end -}}

{{- define "cclm-pretrain.containerSecurity" -}}
{{- $security := .Values.security -}}
{{- if or $security.restricted $security.ipcLock }}
capabilities:
  {{- if $security.restricted }}
  drop: [ALL]
  {{- end }}
  {{- if $security.ipcLock }}
  add: [IPC_LOCK]
  {{- end }}
{{- end }}
{{- if $security.restricted }}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
{{- end }}
{{- end -}}

{{- define "cclm-pretrain.podSecurity" -}}
{{- $security := .root.Values.security -}}
{{- if $security.restricted }}
runAsNonRoot: true
seccompProfile:
  type: RuntimeDefault
{{- end }}
{{- if not (kindIs "invalid" $security.runAsUser) }}
runAsUser: {{ int $security.runAsUser }}
{{- end }}
{{- if not (kindIs "invalid" $security.runAsGroup) }}
runAsGroup: {{ int $security.runAsGroup }}
{{- end }}
{{- $hasClaims := false }}
{{- range .volumes }}{{- if .claim }}{{- $hasClaims = true }}{{- end }}{{- end }}
{{- if and $hasClaims (ge (int $security.fsGroup) 0) }}
fsGroup: {{ int $security.fsGroup }}
fsGroupChangePolicy: OnRootMismatch
{{- end }}
{{- end -}}

{{- define "cclm-pretrain.podSpec" -}}
{{- $root := .root -}}
{{- $values := .root.Values -}}
{{- $machine := include "cclm-pretrain.machine" .root | fromJson -}}
{{- $devices := include "cclm-pretrain.devices" .root | fromJsonArray -}}
{{- $volumes := include "cclm-pretrain.volumes" . | fromJsonArray -}}
{{- $paths := list -}}
{{- range $volumes -}}{{- $paths = append $paths (trimSuffix "/" .path) -}}{{- end -}}
{{- $hasSharedMemory := not (has "/dev/shm" $paths) -}}
{{- $memory := div (add (mul (int64 $machine.memMB) 1000000) (ternary (mul (include "cclm-pretrain.sharedMemory" $root | int64) 1048576) 0 $hasSharedMemory) 1048575) 1048576 -}}
terminationGracePeriodSeconds: {{ int $values.faults.graceSeconds }}
enableServiceLinks: false
automountServiceAccountToken: {{ $values.serviceAccount.token }}
tolerations:
  {{- include "cclm-pretrain.tolerations" $root | nindent 2 }}
{{- if include "cclm-pretrain.isDemo" $root }}
initContainers:
  - name: demo
    image: {{ include "cclm-pretrain.image" $root }}
    {{- with $values.image.pullPolicy }}
    imagePullPolicy: {{ . }}
    {{- end }}
    command: [cclm, demo, demo_world]
    {{- with $values.demoOptions }}
    args: {{- toYaml . | nindent 6 }}
    {{- end }}
    workingDir: /demo
    {{- with $values.env }}
    env:
      {{- range $name, $value := . }}
      - name: {{ $name }}
        value: {{ $value | replace "$" "$$" | quote }}
      {{- end }}
    {{- end }}
    {{- with include "cclm-pretrain.containerSecurity" $root }}
    securityContext:
      {{- . | indent 6 }}
    {{- end }}
    resources:
      limits:
        cpu: {{ int $machine.cpu | quote }}
        memory: {{ $memory }}Mi
    volumeMounts:
      {{- range $number, $one := $volumes }}
      - name: volume-{{ $number }}
        mountPath: {{ $one.path }}
        {{- if $one.readOnly }}
        readOnly: true
        {{- end }}
      {{- end }}
      {{- if not (has "/tmp" $paths) }}
      - name: tmp
        mountPath: /tmp
      {{- end }}
{{- end }}
containers:
  - name: pytorch
    image: {{ include "cclm-pretrain.image" $root }}
    {{- with $values.image.pullPolicy }}
    imagePullPolicy: {{ . }}
    {{- end }}
    {{- if include "cclm-pretrain.isDemo" $root }}
    workingDir: /demo
    {{- end }}
    command: [bash]
    args:
      - -c
      - {{ include "cclm-pretrain.command" . | quote }}
    env:
      {{- include "cclm-pretrain.environment" . | nindent 6 }}
    {{- if or $values.configMaps $values.secrets }}
    envFrom:
      {{- range $values.configMaps }}
      - configMapRef:
          name: {{ . }}
      {{- end }}
      {{- range $values.secrets }}
      - secretRef:
          name: {{ . }}
      {{- end }}
    {{- end }}
    ports:
      - name: c10d
        containerPort: {{ int $values.network.rendezvousPort }}
      {{- if int $values.network.metricsPort }}
      - name: metrics
        containerPort: {{ int $values.network.metricsPort }}
      {{- end }}
    resources:
      limits:
        cpu: {{ int $machine.cpu | quote }}
        memory: {{ $memory }}Mi
        {{- range $devices }}
        {{ .name }}: {{ int .count | quote }}
        {{- end }}
        {{- with $values.nodes.hugepages }}
        hugepages-2Mi: {{ . }}
        {{- end }}
        {{- with $values.nodes.ephemeralStorage }}
        ephemeral-storage: {{ . }}
        {{- end }}
    {{- with include "cclm-pretrain.containerSecurity" $root }}
    securityContext:
      {{- . | indent 6 }}
    {{- end }}
    terminationMessagePolicy: FallbackToLogsOnError
    volumeMounts:
      {{- range $number, $one := $volumes }}
      - name: volume-{{ $number }}
        mountPath: {{ $one.path }}
        {{- if $one.readOnly }}
        readOnly: true
        {{- end }}
      {{- end }}
      {{- if $hasSharedMemory }}
      - name: dshm
        mountPath: /dev/shm
      {{- end }}
      {{- if not (has "/tmp" $paths) }}
      - name: tmp
        mountPath: /tmp
      {{- end }}
volumes:
  {{- range $number, $one := $volumes }}
  - name: volume-{{ $number }}
    {{- if $one.claim }}
    persistentVolumeClaim:
      claimName: {{ $one.claim }}
    {{- else if $one.secret }}
    secret:
      secretName: {{ $one.secret }}
    {{- else if $one.configMap }}
    configMap:
      name: {{ $one.configMap }}
    {{- else }}
    emptyDir:
      sizeLimit: {{ $one.emptyDir }}
    {{- end }}
  {{- end }}
  {{- if $hasSharedMemory }}
  - name: dshm
    emptyDir:
      medium: Memory
      sizeLimit: {{ include "cclm-pretrain.sharedMemory" $root }}Mi
  {{- end }}
  {{- if not (has "/tmp" $paths) }}
  - name: tmp
    emptyDir:
      sizeLimit: {{ $values.nodes.tmpSize }}
  {{- end }}
{{- with include "cclm-pretrain.podSecurity" (dict "root" $root "volumes" $volumes) }}
securityContext:
  {{- . | indent 2 }}
{{- end }}
{{- with merge (deepCopy $values.scheduling.nodeSelector) $machine.selector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- $affinity := include "cclm-pretrain.affinity" . | fromJson }}
{{- with $affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with include "cclm-pretrain.serviceAccount" $root }}
serviceAccountName: {{ . }}
{{- end }}
{{- with $values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with include "cclm-pretrain.priorityClass" $root }}
priorityClassName: {{ . }}
{{- end }}
{{- with $values.scheduling.schedulerName }}
schedulerName: {{ . }}
{{- end }}
{{- if $values.network.hostNetwork }}
hostNetwork: true
dnsPolicy: ClusterFirstWithHostNet
{{- end }}
{{- end -}}
