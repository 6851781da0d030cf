{{- /* The configuration as Helm reads it. What would fail in the pods is better said here. */ -}}
{{- define "penstock.parsed" -}}
{{- $config := .Values.config | fromYaml -}}
{{- if $config.Error -}}
{{- fail (printf "config is not YAML: %s" $config.Error) -}}
{{- end -}}
{{- range list "app" "kafka" "inputs" "model" "output" -}}
{{- if not (hasKey $config .) -}}
{{- fail (printf "config has no `%s`: give penstock's configuration file, --set-file config=FILE" .) -}}
{{- end -}}
{{- end -}}
{{- if not (contains "${HOSTNAME" ($config.instance | default "")) -}}
{{- fail "config needs `instance: ${HOSTNAME}`: each pod takes its name from it, and pods of one name would fence one another" -}}
{{- end -}}
{{- $config | toJson -}}
{{- end -}}
