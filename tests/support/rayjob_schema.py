"""A JSON schema of the manifests that we write for Kubernetes.

Rule: KubeRay's definition of `RayJob` (`ray.io/v1`, versions 1.5.1 to 1.7) has a megabyte, most of it Kubernetes' own
description of pods. Here stand the fields that a manifest of ours may have, each with the name, type, bounds and
required neighbours that it has there (and in Kubernetes' API for what lies in a pod). Nothing else is allowed
(`additionalProperties: false`), so a field that is misspelt, misplaced or of another type is found.
"""

from typing import Any

Schema = dict[str, Any]

NAME = {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", "maxLength": 253}
TEXT = {"type": "string"}
TEXTS = {"type": "object", "additionalProperties": TEXT}
COUNT = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
QUANTITY = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?([KMGTPE]i|[numkMGTPE])?$"}


def only(required: tuple[str, ...] = (), **fields: Schema) -> Schema:
    return {"type": "object", "properties": fields, "required": list(required), "additionalProperties": False}


def several(item: Schema) -> Schema:
    return {"type": "array", "items": item}


QUANTITIES = {"type": "object", "additionalProperties": QUANTITY}
# longer names KubeRay refuses
METADATA = only(("name",), name={**NAME, "maxLength": 47}, namespace=NAME, labels=TEXTS, annotations=TEXTS)
CONTAINER = only(
    ("name", "image"),
    name=NAME,
    image=TEXT,
    resources=only(requests=QUANTITIES, limits=QUANTITIES),
    envFrom=several(only(secretRef=only(name=NAME))),
    volumeMounts=several(only(("mountPath", "name"), name=NAME, mountPath=TEXT, readOnly={"type": "boolean"})),
    lifecycle=only(preStop=only(exec=only(command=several(TEXT)))),
)
TOLERATION = only(
    key=TEXT,
    operator={"enum": ["Exists", "Equal"]},
    value=TEXT,
    effect={"enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"]},
)
VOLUME = only(
    ("name",),
    name=NAME,
    configMap=only(name=NAME),
    emptyDir=only(medium={"enum": ["", "Memory"]}, sizeLimit=QUANTITY),
    persistentVolumeClaim=only(("claimName",), claimName=NAME),
)
POD = only(
    ("containers",),
    serviceAccountName=NAME,
    terminationGracePeriodSeconds=COUNT,
    containers={**several(CONTAINER), "minItems": 1},
    volumes=several(VOLUME),
    nodeSelector=TEXTS,
    tolerations=several(TOLERATION),
)
TEMPLATE = only(("spec",), spec=POD)
RAY_CLUSTER = only(
    ("headGroupSpec",),
    rayVersion=TEXT,
    authOptions=only(mode={"enum": ["disabled", "token"]}, secretName=NAME),
    headGroupSpec=only(("template", "rayStartParams"), rayStartParams=TEXTS, template=TEMPLATE),
    workerGroupSpecs=several(
        only(
            ("groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"),
            groupName=NAME,
            replicas=COUNT,
            minReplicas=COUNT,
            maxReplicas=COUNT,
            rayStartParams=TEXTS,
            template=TEMPLATE,
        )
    ),
)
RAY_JOB = only(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=METADATA,
    spec=only(
        entrypoint=TEXT,
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
        runtimeEnvYAML=TEXT,
        metadata=TEXTS,
        entrypointNumCpus={"type": "number"},
        entrypointNumGpus={"type": "number"},
        backoffLimit=COUNT,
        shutdownAfterJobFinishes={"type": "boolean"},
        ttlSecondsAfterFinished=COUNT,
        rayClusterSpec=RAY_CLUSTER,
    ),
)
CONFIG_MAP = only(
    ("apiVersion", "kind", "metadata"),
    apiVersion={"const": "v1"},
    kind={"const": "ConfigMap"},
    metadata=METADATA,
    data={"type": "object", "patternProperties": {r"^[-._a-zA-Z0-9]+$": TEXT}, "additionalProperties": False},
    binaryData={"type": "object", "patternProperties": {r"^[-._a-zA-Z0-9]+$": TEXT}, "additionalProperties": False},
)
