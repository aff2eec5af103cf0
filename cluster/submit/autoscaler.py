"""A cluster of rented machines for Ray's own launcher (`ray up`): its YAML.

In: a name, a `SiteSpec`. Out: YAML, the commands that use it. On disk: nothing.

The head holds the program and no worker, and is not a spot machine. As many workers as `nodes` are rented, and rented
again when they are taken back: the launcher keeps that number. Each worker watches for the provider's notice and then
drains its node (`sixfold drain --watch`): no unit is begun there any more, and its units are made elsewhere. Ray asks
for the token of `~/.ray/auth_token` on the machine that runs `ray up`; `ray get-auth-token --generate` makes it.
"""

import yaml

from cluster.recipes.site import CloudSpec, SiteSpec
from cluster.submit.call import whole
from cluster.submit.state import JobError

Json = dict[str, object]

TOKEN = "~/.ray/auth_token"
HOME_THERE = "/home/sixfold"  # of the Dockerfile's user
GCP_CLIENT = "google-api-python-client==1.7.8"  # the launcher's own default, on the head


def cluster_yaml(name: str, site: SiteSpec) -> str:
    """The launcher's file. Raises JobError for what is missing."""
    spec = _spec(site)
    head, worker = _machine(spec, spec.head_type, spot=False), _machine(spec, spec.worker_type, spot=spec.spot)
    token = f"{HOME_THERE}/.ray/auth_token"
    resources: Json = {}
    if site.cpus_per_node is not None:
        resources = {"CPU": site.cpus_per_node, "GPU": site.gpus_per_node}
    # it outlives the shell that starts it
    watch = f"setsid nohup sixfold drain --watch {spec.provider} > /tmp/drain.log 2>&1 < /dev/null &"
    start = "ulimit -n 65536; ray start --disable-usage-stats --object-manager-port=8076"
    found: Json = {
        "cluster_name": name,
        "max_workers": site.nodes,
        "provider": _provider(spec),
        "auth": {"ssh_user": spec.ssh_user},
        "docker": {
            "image": spec.image,
            "container_name": "sixfold",
            # the image begins with the program; the launcher wants a shell
            "run_options": ["--entrypoint=''", "--env RAY_AUTH_MODE=token", "--ulimit nofile=65536:65536"],
        },
        "available_node_types": {
            "head": {"resources": {"CPU": 0, "GPU": 0}, "node_config": head},
            "worker": {
                **{"resources": resources, "node_config": worker},
                **{"min_workers": site.nodes, "max_workers": site.nodes},
            },
        },
        "head_node_type": "head",
        "file_mounts": {token: TOKEN},
        "setup_commands": [],  # all is in the image
        "head_setup_commands": [f"pip install --user {GCP_CLIENT}"] if spec.provider == "gcp" else [],
        "worker_setup_commands": [],
        "head_start_ray_commands": [
            "ray stop",
            f"{start} --head --port=6379 --num-cpus=0 --num-gpus=0 --dashboard-host=127.0.0.1 "
            "--autoscaling-config=~/ray_bootstrap_config.yaml",
        ],
        "worker_start_ray_commands": [
            "ray stop",
            f"{start} --address=$RAY_HEAD_IP:6379",
            *([watch] if spec.spot else []),
        ],
    }
    lines = [
        "# written by `sixfold submit --to cloud`; the commands that use it:",
        *(f"#   {line}" for line in commands("cluster.yaml", "...")),
        "",
    ]
    return "\n".join(lines) + yaml.safe_dump(found, sort_keys=False, allow_unicode=True, width=200)


def commands(file: str, submit: str) -> list[str]:
    """What a person runs, in order. `submit`: the words of the call behind `sixfold submit`, without its target."""
    return [
        "ray get-auth-token --generate  # once: the launcher copies ~/.ray/auth_token to its machines",
        whole(["ray", "up", "--yes", file]),
        f"{whole(['ray', 'dashboard', file])}  # in another window: the job server is then at localhost:8265",
        f"RAY_AUTH_MODE=token sixfold submit {submit} --to job:http://localhost:8265",
        f"{whole(['ray', 'down', '--yes', file])}  # at the end: the machines cost until then",
    ]


def _spec(site: SiteSpec) -> CloudSpec:
    if site.cloud is None:
        raise JobError(
            "cluster.site.cloud: found nothing, expected provider, region, head_type, worker_type and image; give them "
            "in the recipe or in ~/.config/sixfold/site.yaml"
        )
    if site.cloud.provider == "gcp":
        asked = {"zone": site.cloud.zone, "project": site.cloud.project, "machine_image": site.cloud.machine_image}
        missing = [f"cluster.site.cloud.{name}" for name, value in asked.items() if value is None]
        missing += ["cluster.site.cpus_per_node"] if site.cpus_per_node is None else []
        if missing:
            raise JobError(f"{', '.join(missing)}: found nothing, expected a value, which machines of gcp need")
    return site.cloud


def _provider(spec: CloudSpec) -> Json:
    found: Json = {"type": spec.provider, "region": spec.region}
    if spec.zone is not None:
        found["availability_zone"] = spec.zone
    if spec.provider == "gcp":
        found["project_id"] = spec.project
    else:
        found["cache_stopped_nodes"] = False
    return found


def _machine(spec: CloudSpec, kind: str, spot: bool) -> Json:
    """As the provider's own interface calls it."""
    if spec.provider == "aws":
        disk = {"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": spec.disk_gb, "VolumeType": "gp3"}}
        return {
            "InstanceType": kind,
            **({"ImageId": spec.machine_image} if spec.machine_image else {}),
            "BlockDeviceMappings": [disk],
            "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 2},
            **({"InstanceMarketOptions": {"MarketType": "spot"}} if spot else {}),
        }
    boot = {"diskSizeGb": spec.disk_gb, "sourceImage": spec.machine_image}
    return {
        "machineType": kind,
        "disks": [{"boot": True, "autoDelete": True, "type": "PERSISTENT", "initializeParams": boot}],
        "scheduling": [{"onHostMaintenance": "TERMINATE"}, *([{"preemptible": True}] if spot else [])],
    }
