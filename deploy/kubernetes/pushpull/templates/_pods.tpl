{{/* What pods of servers and workers have in common. */}}

{{- define "pushpull.podSettings" -}}
serviceAccountName: {{ include "pushpull.serviceAccountName" . }}
automountServiceAccountToken: false
# Variables of Services would be named like ours: PUSHPULL_...
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  {{- range $key, $value := .Values.podSecurity }}
  {{ $key }}: {{ int64 $value }}
  {{- end }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.images.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "pushpull.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/*
Variables of every container. Of (dict "root" $ "container" name "resources" resources "ranks" number).
torch takes as many threads as the node has cores, whatever share of them the pod has; with several ranks pushpull divides.
*/}}
{{- define "pushpull.environment" -}}
- name: PUSHPULL_LOG_FORMAT
  value: {{ .root.Values.logFormat }}
{{- $cpu := "" -}}
{{- range tuple "requests" "limits" -}}
{{- if dig . "cpu" "" ($.resources | default dict) -}}{{- $cpu = . -}}{{- end -}}
{{- end -}}
{{- if and $cpu (eq (int .ranks) 1) }}
- name: OMP_NUM_THREADS
  valueFrom:
    resourceFieldRef: {containerName: {{ .container }}, resource: {{ $cpu }}.cpu, divisor: "1"}
{{- end }}
{{- end -}}

{{/* Labels of spot nodes: GKE (new and old), AKS, EKS node groups, Karpenter. */}}
{{- define "pushpull.spotLabels" -}}
cloud.google.com/gke-spot: "true"
cloud.google.com/gke-preemptible: "true"
kubernetes.azure.com/scalesetpriority: spot
eks.amazonaws.com/capacityType: SPOT
karpenter.sh/capacity-type: spot
{{- end -}}

{{/* Taints of spot nodes. EKS and Karpenter set none by themselves. */}}
{{- define "pushpull.spotTolerations" -}}
- {key: cloud.google.com/gke-spot, operator: Equal, value: "true", effect: NoSchedule}
- {key: cloud.google.com/gke-preemptible, operator: Equal, value: "true", effect: NoSchedule}
- {key: kubernetes.azure.com/scalesetpriority, operator: Equal, value: spot, effect: NoSchedule}
{{- end -}}

{{/* Affinity of the servers, as YAML: the user's, and away from spot nodes. */}}
{{- define "pushpull.serverAffinity" -}}
{{- $affinity := deepCopy .Values.servers.affinity -}}
{{- if .Values.servers.avoidSpot -}}
{{- $expressions := list -}}
{{- range $key, $value := include "pushpull.spotLabels" . | fromYaml -}}
{{- $expressions = append $expressions (dict "key" $key "operator" "NotIn" "values" (list $value)) -}}
{{- end -}}
{{- $node := $affinity.nodeAffinity | default dict -}}
{{- $required := $node.requiredDuringSchedulingIgnoredDuringExecution | default dict -}}
{{- $terms := list -}}
{{- /* Terms are alternatives: what is to hold always belongs into each. */ -}}
{{- range $required.nodeSelectorTerms | default (list dict) -}}
{{- $terms = append $terms (set . "matchExpressions" (concat (.matchExpressions | default list) $expressions)) -}}
{{- end -}}
{{- $_ := set $node "requiredDuringSchedulingIgnoredDuringExecution" (dict "nodeSelectorTerms" $terms) -}}
{{- $_ := set $affinity "nodeAffinity" $node -}}
{{- end -}}
{{- with $affinity }}{{ toYaml . }}{{ end -}}
{{- end -}}

{{/* Affinity of a pool, as YAML: the user's, and towards spot nodes. */}}
{{- define "pushpull.poolAffinity" -}}
{{- $affinity := deepCopy .affinity -}}
{{- if .spot -}}
{{- $node := $affinity.nodeAffinity | default dict -}}
{{- $preferred := $node.preferredDuringSchedulingIgnoredDuringExecution | default list -}}
{{- range $key, $value := include "pushpull.spotLabels" . | fromYaml -}}
{{- $expression := dict "key" $key "operator" "In" "values" (list $value) -}}
{{- $preferred = append $preferred (dict "weight" 50 "preference" (dict "matchExpressions" (list $expression))) -}}
{{- end -}}
{{- $_ := set $node "preferredDuringSchedulingIgnoredDuringExecution" $preferred -}}
{{- $_ := set $affinity "nodeAffinity" $node -}}
{{- end -}}
{{- with $affinity }}{{ toYaml . }}{{ end -}}
{{- end -}}
