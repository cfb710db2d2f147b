{{/* What values.schema.json cannot say: values that contradict each other. */}}
{{- define "pushpull.check" -}}
{{- $sources := list -}}
{{- range tuple "path" "inline" "configMap" -}}
{{- if get $.Values.workers.script . -}}{{- $sources = append $sources (printf "workers.script.%s" .) -}}{{- end -}}
{{- end -}}
{{- if gt (len $sources) 1 -}}
{{- fail (printf "%s are set, but there is only one script: keep one of them." (join " and " $sources)) -}}
{{- end -}}
{{- $names := list -}}
{{- range .Values.workers.pools -}}
{{- $pool := include "pushpull.pool" (dict "root" $ "pool" .) | fromYaml -}}
{{- if has $pool.name $names -}}
{{- fail (printf "workers.pools: two pools are named %s; give each a name of its own." $pool.name) -}}
{{- end -}}
{{- $names = append $names $pool.name -}}
{{- with $pool.autoscaling -}}
{{- if and .enabled (ne $pool.kind "Deployment") -}}
{{- fail (printf "workers.pools: %s has autoscaling and is a %s, which no autoscaler can scale: set kind: Deployment." $pool.name $pool.kind) -}}
{{- end -}}
{{- if and .enabled (gt (int .minReplicas) (int .maxReplicas)) -}}
{{- fail (printf "workers.pools: %s has autoscaling.minReplicas %d above maxReplicas %d." $pool.name (int .minReplicas) (int .maxReplicas)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
