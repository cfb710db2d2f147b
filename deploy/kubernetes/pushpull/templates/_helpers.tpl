{{/* Names, labels and addresses. */}}

{{- define "pushpull.grpcPort" -}}7077{{- end -}}
{{- define "pushpull.metricsPort" -}}9477{{- end -}}

{{/*
At most 28 characters, so that everything made from it stays within 63, also what Kubernetes and KEDA append.
What is cut off is replaced by a digest: two long names that begin alike stay two names.
*/}}
{{- define "pushpull.fullname" -}}
{{- $name := .Release.Name -}}
{{- if .Values.fullnameOverride -}}
{{- $name = .Values.fullnameOverride -}}
{{- else if not (contains .Chart.Name .Release.Name) -}}
{{- $name = printf "%s-%s" .Release.Name .Chart.Name -}}
{{- end -}}
{{- if gt (len $name) 28 -}}
{{- printf "%s-%s" ($name | trunc 21 | trimSuffix "-") ($name | sha256sum | trunc 6) -}}
{{- else -}}
{{- $name -}}
{{- end -}}
{{- end -}}

{{- define "pushpull.serverName" -}}{{ include "pushpull.fullname" . }}-server{{- end -}}
{{- define "pushpull.serversService" -}}{{ include "pushpull.fullname" . }}-servers{{- end -}}
{{- define "pushpull.statusService" -}}{{ include "pushpull.fullname" . }}-status{{- end -}}
{{- define "pushpull.jobConfigMap" -}}{{ include "pushpull.fullname" . }}-job{{- end -}}
{{- define "pushpull.scriptConfigMap" -}}
{{- .Values.workers.script.configMap | default (printf "%s-script" (include "pushpull.fullname" .)) -}}
{{- end -}}
{{/* Of (dict "root" $ "pool" pool). */}}
{{- define "pushpull.poolName" -}}{{ include "pushpull.fullname" .root }}-worker-{{ .pool.name }}{{- end -}}

{{- define "pushpull.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "pushpull.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{/* What selects the pods of a component. Of (dict "root" $ "component" name). */}}
{{- define "pushpull.selectorLabels" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* Of (dict "root" $ "component" name). */}}
{{- define "pushpull.labels" -}}
{{ include "pushpull.selectorLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* host:port of every server, shard 0 first, separated by commas. */}}
{{- define "pushpull.servers" -}}
{{- $addresses := list -}}
{{- range $shard := until (int .Values.servers.replicas) -}}
{{- $host := printf "%s-%d.%s.%s.svc" (include "pushpull.serverName" $) $shard (include "pushpull.serversService" $) $.Release.Namespace -}}
{{- $addresses = append $addresses (printf "%s:%s" $host (include "pushpull.grpcPort" $)) -}}
{{- end -}}
{{- join "," $addresses -}}
{{- end -}}

{{/*
One pool with the defaults filled in, as YAML. Of (dict "root" $ "pool" pool). A value of the pool replaces the default's as a
whole; those of `autoscaling` one by one. Not `merge`: it takes false, 0 and "" for absent.
*/}}
{{- define "pushpull.pool" -}}
{{- $pool := deepCopy .root.Values.workers.defaults -}}
{{- range $key, $value := .pool -}}
{{- if eq $key "autoscaling" -}}
{{- range $inner, $setting := $value -}}
{{- $_ := set $pool.autoscaling $inner $setting -}}
{{- end -}}
{{- else -}}
{{- $_ := set $pool $key $value -}}
{{- end -}}
{{- end -}}
{{- toYaml $pool -}}
{{- end -}}

{{/* Processes of one worker: the product of the numbers in its layout. */}}
{{- define "pushpull.numRanks" -}}
{{- $ranks := 1 -}}
{{- range regexFindAll "[0-9]+" (.layout | default "") -1 -}}
{{- $ranks = mul $ranks (int .) -}}
{{- end -}}
{{- $ranks -}}
{{- end -}}

{{/* The largest number of ranks of any pool: so many ports serve metrics. */}}
{{- define "pushpull.mostRanks" -}}
{{- $most := 1 -}}
{{- range .Values.workers.pools -}}
{{- $pool := include "pushpull.pool" (dict "root" $ "pool" .) | fromYaml -}}
{{- $most = max $most (include "pushpull.numRanks" $pool | int) -}}
{{- end -}}
{{- $most -}}
{{- end -}}

{{/* The port of rank 0 is `metrics`, then `metrics-1`, ... */}}
{{- define "pushpull.metricsPortName" -}}
{{- if eq (int .) 0 -}}metrics{{- else -}}metrics-{{ . }}{{- end -}}
{{- end -}}
