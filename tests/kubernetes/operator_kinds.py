"""Kinds of the Prometheus operator and of KEDA: the fields that the chart uses, and no others.

No package has their schemas. These were compared with the operators' own.
"""

from typing import Any

VERSIONS = {"monitoring.coreos.com/v1", "keda.sh/v1alpha1"}


def closed(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": required | optional,
        "required": list(required),
        "additionalProperties": False,
    }


def many(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1}


TEXT = {"type": "string", "minLength": 1}
NUMBER = {"type": "integer", "minimum": 0}
DURATION = {"type": "string", "pattern": "^[0-9]+(ms|s|m|h)$"}
TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
SELECTOR = closed({"matchLabels": TEXTS})
RELABELINGS = many(
    closed({"action": {"enum": ["replace"]}, "targetLabel": TEXT}, replacement=TEXT, sourceLabels=many(TEXT))
)
ENDPOINTS = many(closed({"port": TEXT, "interval": DURATION, "relabelings": RELABELINGS}))
RULE = closed(
    {"expr": TEXT},
    **{"alert": TEXT, "record": TEXT, "for": DURATION, "keep_firing_for": DURATION},
    labels=TEXTS,
    annotations=TEXTS,
)
SCALING = closed(
    {
        "stabilizationWindowSeconds": NUMBER | {"maximum": 3600},
        "policies": many(closed({"type": {"enum": ["Pods"]}, "value": NUMBER, "periodSeconds": NUMBER})),
    }
)
PROMETHEUS = closed(
    {
        "serverAddress": TEXT,
        "query": TEXT,
        "threshold": {"type": "string", "pattern": r"^[0-9.]+$"},
        "ignoreNullValues": {"enum": ["false"]},
    }
)
SPECS = {
    "ServiceMonitor": closed({"selector": SELECTOR, "endpoints": ENDPOINTS}),
    "PodMonitor": closed({"selector": SELECTOR, "podMetricsEndpoints": ENDPOINTS}),
    "PrometheusRule": closed({"groups": many(closed({"name": TEXT, "rules": many(RULE)}, interval=DURATION))}),
    "ScaledObject": closed(
        {
            "scaleTargetRef": closed(
                {"apiVersion": {"enum": ["apps/v1"]}, "kind": {"enum": ["Deployment"]}, "name": TEXT}
            ),
            "minReplicaCount": NUMBER,
            "maxReplicaCount": NUMBER,
            "advanced": closed(
                {
                    "horizontalPodAutoscalerConfig": closed(
                        {"behavior": closed({"scaleUp": SCALING, "scaleDown": SCALING})}
                    )
                }
            ),
            "triggers": many(
                closed(
                    {
                        "type": {"enum": ["prometheus"]},
                        "metricType": {"enum": ["AverageValue"]},
                        "metadata": PROMETHEUS,
                    },
                    authenticationRef=closed({"name": TEXT}),
                )
            ),
        }
    ),
}
