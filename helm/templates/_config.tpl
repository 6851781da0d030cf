{{- /* What would fail in the pod is better said here: text that is no YAML, or a name that everything else depends on. */ -}}
{{- define "penstock.config" -}}
{{- $config := .Values.config | fromYaml -}}
{{- if $config.Error -}}
{{- fail (printf "config is not YAML: %s" $config.Error) -}}
{{- end -}}
{{- range list "app" "kafka" "inputs" "model" "output" -}}
{{- if not (hasKey $config .) -}}
{{- fail (printf "config has no `%s`: give penstock's configuration file, --set-file config=FILE" .) -}}
{{- end -}}
{{- end -}}
{{- .Values.config | trim -}}
{{- end -}}
