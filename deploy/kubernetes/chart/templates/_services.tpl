{{- /* Environment, mounts and volumes of a service: (dict "root" $ "component" "pool"). */}}
{{- define "drape.serviceEnv" -}}
{{- $name := include "drape.name" .root -}}
{{- $scheme := ternary "https" "http" .root.Values.hosts.https -}}
- name: DRAPE_CONFIG
  value: /etc/drape/drape.toml
- name: DRAPE_INSTANCE
  valueFrom:
    fieldRef: {fieldPath: metadata.name}
- name: DRAPE_LOG_LEVEL
  value: {{ .root.Values.logLevel }}
- name: DRAPE_HEALTH_HOST
  value: 0.0.0.0
- name: DRAPE_HEALTH_PORT
  value: "8081"
- name: DRAPE_SECRET_FILE
  value: /run/secrets/drape/platform/secret
{{ include "drape.natsEnv" . }}
{{- with .root.Values.telemetryExport.endpoint }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ . | quote }}
{{- end }}
{{- if eq .component "pool" }}
- name: DRAPE_POOL_PROVIDER
  value: {{ required "provider.kind is needed: docker, fly or simulated" .root.Values.provider.kind }}
{{- range $setting, $value := .root.Values.provider.env }}
- name: {{ $setting }}
  value: {{ $value | quote }}
{{- end }}
{{- range $setting, $key := .root.Values.provider.files }}
- name: {{ $setting }}
  value: /run/secrets/drape/provider/{{ $key }}
{{- end }}
{{- else if eq .component "orchestrator" }}
- name: DRAPE_ORCHESTRATOR_GATEWAY_URL
  value: http://{{ $name }}-gateway.{{ .root.Release.Namespace }}.svc:8080
- name: DRAPE_ORCHESTRATOR_PREVIEW_ORIGIN
  value: {{ printf "%s://{id}.%s" $scheme .root.Values.hosts.previews | quote }}
{{- else if eq .component "gateway" }}
# It accepts until no proxy sends it anything any more.
- name: DRAPE_LEAVE_S
  value: "10"
- name: DRAPE_GATEWAY_HOST
  value: 0.0.0.0
- name: DRAPE_GATEWAY_PORT
  value: "8080"
- name: DRAPE_GATEWAY_PREVIEW_DOMAIN
  value: {{ .root.Values.hosts.previews | quote }}
- name: DRAPE_GATEWAY_PUBLIC_HOSTS
  value: {{ .root.Values.hosts.api | quote }}
- name: DRAPE_API_TOKENS_FILE
  value: /run/secrets/drape/api/tokens
{{- else if eq .component "telemetry" }}
- name: DATABASE_URL_FILE
  value: /run/secrets/drape/database/url
{{- end }}
{{- end }}

{{- define "drape.serviceMounts" -}}
- name: config
  mountPath: /etc/drape
  readOnly: true
- name: platform
  mountPath: /run/secrets/drape/platform
  readOnly: true
{{ include "drape.natsMounts" . }}
{{- if and (eq .component "pool") .root.Values.provider.secretName }}
- name: provider
  mountPath: /run/secrets/drape/provider
  readOnly: true
{{- else if eq .component "gateway" }}
- name: api
  mountPath: /run/secrets/drape/api
  readOnly: true
{{- else if eq .component "telemetry" }}
- name: database
  mountPath: /run/secrets/drape/database
  readOnly: true
{{- end }}
{{- end }}

{{- define "drape.serviceVolumes" -}}
- name: config
  configMap:
    name: {{ include "drape.name" .root }}-config
    items: [{key: drape.toml, path: drape.toml}]
- name: platform
  secret:
    secretName: {{ .root.Values.secrets.platform }}
    defaultMode: 0440
    items: [{key: secret, path: secret}]
{{ include "drape.natsVolumes" . }}
{{- if and (eq .component "pool") .root.Values.provider.secretName }}
- name: provider
  secret:
    secretName: {{ .root.Values.provider.secretName }}
    defaultMode: 0440
    {{- with .root.Values.provider.files }}
    items:
      {{- range $key := values . | uniq | sortAlpha }}
      - {key: {{ $key }}, path: {{ $key }}}
      {{- end }}
    {{- end }}
{{- else if eq .component "gateway" }}
- name: api
  secret:
    secretName: {{ .root.Values.secrets.apiTokens }}
    defaultMode: 0440
    items: [{key: tokens, path: tokens}]
{{- else if eq .component "telemetry" }}
- name: database
  secret:
    secretName: {{ .root.Values.secrets.database }}
    defaultMode: 0440
    items: [{key: url, path: url}]
{{- end }}
{{- end }}
