"""What Prometheus and Grafana are given: dashboards, alert rules and their tests, and how Grafana finds them.

Dashboards are Python here and JSON in `dashboards/`, which `make dashboards` writes from it.
"""
