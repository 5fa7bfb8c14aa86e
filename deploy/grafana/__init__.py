"""Dashboards, alert rules and data sources for Grafana and Prometheus, written as data here and rendered into files beside it."""
