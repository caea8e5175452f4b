{{- define "mqtt-operator.name" -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- define "mqtt-operator.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{- define "mqtt-operator.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{ .Values.serviceAccount.name | default (include "mqtt-operator.name" .) }}
{{- else -}}
{{ .Values.serviceAccount.name | default "default" }}
{{- end -}}
{{- end -}}

{{- define "mqtt-operator.selector" -}}
app.kubernetes.io/name: mqtt-operator
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "mqtt-operator.labels" -}}
{{ include "mqtt-operator.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- /* What the operator does where it serves MqttBroker objects: in all namespaces, or in each of watchNamespaces. */ -}}
{{- define "mqtt-operator.rules" -}}
- apiGroups: [mqtt-operator.io]
  resources: [mqttbrokers, mqttusers]
  verbs: [get, list, watch]
- apiGroups: [mqtt-operator.io]
  resources: [mqttbrokers/status, mqttusers/status]
  verbs: [patch]
# Children name their object as an owner that waits for them; some clusters ask for this right then.
- apiGroups: [mqtt-operator.io]
  resources: [mqttbrokers/finalizers, mqttusers/finalizers]
  verbs: [update]
- apiGroups: [""]
  resources: [configmaps, secrets, services]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, patch]
# StatefulSets make claims, and nobody but people deletes them; the operator lets them grow.
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [list, patch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}
