"""Kubernetes: the Helm chart, values to begin from, and what it renders to."""
