{{/* How Karpenter, EKS, GKE and AKS label their spot nodes. The last two taint them likewise. */}}
{{- define "cclm-pretrain.spotLabels" -}}
- {key: karpenter.sh/capacity-type, value: spot}
- {key: eks.amazonaws.com/capacityType, value: SPOT}
- {key: cloud.google.com/gke-spot, value: "true"}
- {key: kubernetes.azure.com/scalesetpriority, value: spot}
{{- end -}}

{{- define "cclm-pretrain.tolerations" -}}
{{- range include "cclm-pretrain.devices" . | fromJsonArray }}
- key: {{ .name }}
  operator: Exists
  effect: NoSchedule
{{- end }}
{{- if ne .Values.scheduling.capacity "on-demand" }}
{{- range include "cclm-pretrain.spotLabels" . | fromYamlArray }}
- key: {{ .key }}
  operator: Equal
  value: {{ .value | quote }}
  effect: NoSchedule
{{- end }}
{{- end }}
{{- with .Values.scheduling.tolerations }}
{{ toYaml . }}
{{- end }}
{{- range list "not-ready" "unreachable" }}
- key: node.kubernetes.io/{{ . }}
  operator: Exists
  effect: NoExecute
  tolerationSeconds: {{ int $.Values.faults.lostNodeSeconds }}
{{- end }}
{{- end -}}

{{/* Affinity of the pods of the job named .name, as JSON: that of the values, the capacity, and the neighbours. */}}
{{- define "cclm-pretrain.affinity" -}}
{{- $scheduling := .root.Values.scheduling -}}
{{- $found := deepCopy $scheduling.affinity -}}
{{- if ne $scheduling.capacity "any" -}}
{{- $ours := list -}}
{{- range include "cclm-pretrain.spotLabels" .root | fromYamlArray -}}
{{- $operator := ternary "In" "NotIn" (eq $scheduling.capacity "spot") -}}
{{- $ours = append $ours (dict "key" .key "operator" $operator "values" (list .value)) -}}
{{- end -}}
{{- /* A node has at most one of these labels. So spot nodes are alternatives, and other nodes have none of them. */ -}}
{{- $alternatives := list $ours -}}
{{- if eq $scheduling.capacity "spot" -}}
{{- $alternatives = list -}}
{{- range $ours -}}{{- $alternatives = append $alternatives (list .) -}}{{- end -}}
{{- end -}}
{{- $node := $found.nodeAffinity | default dict -}}
{{- $required := $node.requiredDuringSchedulingIgnoredDuringExecution | default dict -}}
{{- $terms := list -}}
{{- range $term := $required.nodeSelectorTerms | default (list dict) -}}
{{- range $alternatives -}}
{{- $terms = append $terms (merge (dict "matchExpressions" (concat ($term.matchExpressions | default list) .)) $term) -}}
{{- end -}}
{{- end -}}
{{- $_ := set $node "requiredDuringSchedulingIgnoredDuringExecution" (dict "nodeSelectorTerms" $terms) -}}
{{- $_ := set $found "nodeAffinity" $node -}}
{{- end -}}
{{- if gt (int .root.Values.nodes.max) 1 -}}
{{- $selector := dict "matchLabels" (dict "app.kubernetes.io/instance" .name) -}}
{{- $rules := list (list "podAntiAffinity" $scheduling.spreadHosts "kubernetes.io/hostname") (list "podAffinity" $scheduling.sameZone "topology.kubernetes.io/zone") -}}
{{- range $rules -}}
{{- $kind := index . 0 -}}
{{- $wanted := index . 1 -}}
{{- $term := dict "labelSelector" $selector "topologyKey" (index . 2) -}}
{{- if ne $wanted "none" -}}
{{- $of := get $found $kind | default dict -}}
{{- $key := printf "%sDuringSchedulingIgnoredDuringExecution" $wanted -}}
{{- if eq $wanted "preferred" -}}{{- $term = dict "weight" 100 "podAffinityTerm" $term -}}{{- end -}}
{{- $_ := set $of $key (append (get $of $key | default list) $term) -}}
{{- $_ := set $found $kind $of -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $found | toJson -}}
{{- end -}}
