"""Dashboards of Grafana on runs, and their pictures. The alerts that watch what they show are in the chart's files."""
