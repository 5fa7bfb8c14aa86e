// Grafana's own types, put together as a dashboard's JSON has them: each panel's options by its type, each query by its data
// source. `Plain` makes of an enum what JSON has of it: its value.
import type * as raw from '@grafana/schema/dist/esm/raw/dashboard/x/dashboard_types.gen'
import type * as bargauge from '@grafana/schema/dist/esm/raw/composable/bargauge/panelcfg/x/BarGaugePanelCfg_types.gen'
import type * as heatmap from '@grafana/schema/dist/esm/raw/composable/heatmap/panelcfg/x/HeatmapPanelCfg_types.gen'
import type * as logs from '@grafana/schema/dist/esm/raw/composable/logs/panelcfg/x/LogsPanelCfg_types.gen'
import type * as loki from '@grafana/schema/dist/esm/raw/composable/loki/dataquery/x/LokiDataQuery_types.gen'
import type * as stat from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen'
import type * as statetimeline from '@grafana/schema/dist/esm/raw/composable/statetimeline/panelcfg/x/StateTimelinePanelCfg_types.gen'
import type * as table from '@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen'
import type * as tempo from '@grafana/schema/dist/esm/raw/composable/tempo/dataquery/x/TempoDataQuery_types.gen'
import type * as timeseries from '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen'

type Plain<T> = T extends string
  ? string extends T ? string : `${T}`
  : T extends number
    ? number extends T ? number : `${T}` extends `${infer N extends number}` ? N : never
    : T extends (infer E)[]
      ? Plain<E>[]
      : T extends object
        ? { [K in keyof T]: Plain<T[K]> }
        : T

// Grafana's Prometheus data source has its types in a package of its own; these are the fields of it that we use.
interface PrometheusQuery {
  refId: string
  datasource: { type: 'prometheus'; uid: string }
  expr: string
  legendFormat: string
  editorMode: 'code' | 'builder'
  range: boolean
  instant: boolean
  exemplar: boolean
  format: 'time_series' | 'table' | 'heatmap'
}

interface FieldConfigOf<Custom> {
  defaults: Plain<Omit<raw.FieldConfig, 'custom'>> & { custom?: Plain<Custom> }
  overrides: Plain<raw.FieldConfigSource>['overrides']
}

type PanelOf<Type extends string, Options, Custom, Query> = Plain<
  Omit<raw.Panel, 'type' | 'options' | 'fieldConfig' | 'targets' | 'pluginVersion'>
> & {
  type: Type
  title: string
  description: string
  id: number
  gridPos: raw.GridPos
  options: Plain<Options>
  fieldConfig: FieldConfigOf<Custom>
  targets: Query[]
}

export type AnyPanel =
  | PanelOf<'timeseries', timeseries.Options, timeseries.FieldConfig, PrometheusQuery>
  | PanelOf<'stat', stat.Options, Record<string, never>, PrometheusQuery>
  | PanelOf<'bargauge', bargauge.Options, Record<string, never>, PrometheusQuery>
  | PanelOf<'heatmap', heatmap.Options, heatmap.FieldConfig, PrometheusQuery>
  | PanelOf<'state-timeline', statetimeline.Options, statetimeline.FieldConfig, PrometheusQuery>
  | PanelOf<'table', table.Options, table.FieldConfig, Plain<tempo.TempoQuery>>
  | PanelOf<'logs', logs.Options, Record<string, never>, Plain<loki.LokiDataQuery>>
  | Plain<raw.RowPanel>

type Annotation = Plain<Omit<raw.AnnotationQuery, never>> & {
  expr?: string
  step?: string
  titleFormat?: string
  textFormat?: string
  tagKeys?: string
}

export type Dashboard = Plain<Omit<raw.Dashboard, 'panels' | 'annotations'>> & {
  annotations: { list: Annotation[] }
  panels: AnyPanel[]
}

