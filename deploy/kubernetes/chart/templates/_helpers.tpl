{{- define "drape.name" -}}
{{- if contains "drape" .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-drape" .Release.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- /* Labels of one component: (dict "root" $ "component" "pool"). */}}
{{- define "drape.selector" -}}
app.kubernetes.io/name: drape
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "drape.labels" -}}
{{ include "drape.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{- define "drape.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{- /* All servers by name, not the Service: a client leaves a server that is cut off for one that it knows. */}}
{{- define "drape.natsUrl" -}}
{{- if .Values.nats.enabled -}}
{{- $servers := list -}}
{{- $scheme := ternary "tls" "nats" .Values.nats.config.nats.tls.enabled -}}
{{- $name := .Values.nats.fullnameOverride -}}
{{- $count := ternary (int .Values.nats.config.cluster.replicas) 1 .Values.nats.config.cluster.enabled -}}
{{- range $i := until $count -}}
{{- $servers = append $servers (printf "%s://%s-%d.%s-headless.%s.svc:4222" $scheme $name $i $name $.Release.Namespace) -}}
{{- end -}}
{{- join "," $servers -}}
{{- else -}}
{{- required "externalNats.url is needed where nats.enabled is false" .Values.externalNats.url -}}
{{- end -}}
{{- end }}

{{- /* The Secret with the authority of NATS's certificates; empty where none is needed. */}}
{{- define "drape.natsCa" -}}
{{- if .Values.nats.enabled -}}
{{- if and .Values.nats.config.nats.tls.enabled .Values.nats.tlsCA.enabled }}{{ .Values.nats.tlsCA.secretName }}{{ end -}}
{{- else -}}
{{- .Values.externalNats.caSecretName -}}
{{- end -}}
{{- end }}

{{- define "drape.streamReplicas" -}}
{{- if .Values.nats.enabled -}}
{{- ternary (int .Values.nats.config.cluster.replicas) 1 .Values.nats.config.cluster.enabled | min 3 -}}
{{- else -}}
{{- .Values.externalNats.streamReplicas -}}
{{- end -}}
{{- end }}

{{- define "drape.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "drape.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- /* Who we are on NATS, and whom we believe: (dict "root" $ "component" "pool"). */}}
{{- define "drape.natsEnv" -}}
- name: NATS_URL
  value: {{ include "drape.natsUrl" .root | quote }}
- name: DRAPE_NATS_SEED_FILE
  value: /run/secrets/drape/nats/seed
{{- if include "drape.natsCa" .root }}
- name: DRAPE_NATS_CA_FILE
  value: /run/secrets/drape/nats-ca/ca.crt
{{- end }}
{{- end }}

{{- define "drape.natsMounts" -}}
- name: nats-seed
  mountPath: /run/secrets/drape/nats
  readOnly: true
{{- if include "drape.natsCa" .root }}
- name: nats-ca
  mountPath: /run/secrets/drape/nats-ca
  readOnly: true
{{- end }}
- name: tmp
  mountPath: /tmp
{{- end }}

{{- define "drape.natsVolumes" -}}
- name: nats-seed
  secret:
    secretName: {{ printf "%s-%s" .root.Values.secrets.natsSeedPrefix .component }}
    defaultMode: 0440
    items: [{key: seed, path: seed}]
{{- with include "drape.natsCa" .root }}
- name: nats-ca
  secret:
    secretName: {{ . }}
    defaultMode: 0440
    items: [{key: ca.crt, path: ca.crt}]
{{- end }}
- name: tmp
  emptyDir:
    sizeLimit: {{ if eq .component "gateway" }}{{ .root.Values.gateway.scratch }}{{ else }}256Mi{{ end }}
{{- end }}
