"""The file of Ray's launcher: Ray itself reads it, and it says what the site says."""

import copy
import json
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from cluster.recipes.site import CloudSpec, SiteSpec
from cluster.submit.autoscaler import cluster_yaml
from cluster.submit.call import Call
from cluster.submit.state import JobError
from cluster.submit.submit import write_cloud
from shards.disk.home import home

SCHEMA = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
AWS = {
    **{"provider": "aws", "region": "us-west-2", "head_type": "m5.xlarge", "worker_type": "g5.2xlarge"},
    "image": "registry.example/sixfold:1",
}
GCP = {
    **{"provider": "gcp", "region": "us-west1", "zone": "us-west1-a", "project": "vision-314"},
    **{"head_type": "n2-standard-4", "worker_type": "g2-standard-8", "image": "registry.example/sixfold:1"},
    "machine_image": "projects/ml-images/global/images/family/common-cu129-ubuntu-2204-nvidia-580",
}


def site_of(cloud: dict[str, Any], **fields: Any) -> SiteSpec:
    return SiteSpec(cloud=CloudSpec.model_validate(cloud), **fields)


def file_of(cloud: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """The file, checked by Ray's schema, alone and with what Ray adds."""
    found: dict[str, Any] = yaml.safe_load(cluster_yaml("sixfold-digits", site_of(cloud, cpus_per_node=8, **fields)))
    jsonschema.validate(found, SCHEMA)
    validate_config(prepare_config(copy.deepcopy(found)))
    return found


@pytest.mark.parametrize("cloud", [AWS, GCP, {**AWS, "spot": False, "zone": "us-west-2b", "machine_image": "ami-1"}])
def test_ray_reads_the_file(cloud: dict[str, Any]) -> None:
    file_of(cloud, nodes=4, gpus_per_node=1)


def test_the_schema_finds_a_field_that_is_wrong() -> None:
    found = file_of(AWS)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**found, "max_worker": 3}, SCHEMA)


def test_as_many_workers_as_machines_are_kept_and_the_head_holds_none_and_is_no_spot_machine() -> None:
    found = file_of(AWS, nodes=4, gpus_per_node=1)
    head, worker = (found["available_node_types"][name] for name in ("head", "worker"))
    assert (worker["min_workers"], worker["max_workers"], found["max_workers"]) == (4, 4, 4)
    assert worker["resources"] == {"CPU": 8, "GPU": 1}
    assert worker["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert head["resources"] == {"CPU": 0, "GPU": 0}
    assert "InstanceMarketOptions" not in head["node_config"]
    assert "--num-cpus=0" in found["head_start_ray_commands"][-1]


def test_a_spot_worker_watches_for_the_notice_of_its_provider() -> None:
    assert "sixfold drain --watch aws" in file_of(AWS)["worker_start_ray_commands"][-1]
    assert "sixfold drain --watch gcp" in file_of(GCP)["worker_start_ray_commands"][-1]
    assert "preemptible" in str(file_of(GCP)["available_node_types"]["worker"])
    kept = file_of({**AWS, "spot": False})
    assert "drain" not in str(kept["worker_start_ray_commands"])
    assert "spot" not in str(kept["available_node_types"])


def test_ray_asks_for_a_token_that_no_file_holds() -> None:
    found = file_of(AWS)
    assert "--env RAY_AUTH_MODE=token" in found["docker"]["run_options"]
    assert found["file_mounts"] == {"/home/sixfold/.ray/auth_token": "~/.ray/auth_token"}
    assert "--dashboard-host=127.0.0.1" in found["head_start_ray_commands"][-1]


def test_what_is_missing_is_named() -> None:
    with pytest.raises(JobError, match=r"cluster\.site\.cloud: found nothing, expected provider, region"):
        cluster_yaml("n", SiteSpec())
    with pytest.raises(JobError, match=r"^cluster\.site\.cloud\.zone, cluster\.site\.cpus_per_node: found nothing"):
        cluster_yaml("n", site_of({**GCP, "zone": None}))


def test_the_file_is_written_once_with_the_commands_that_use_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    call = Call("generate", home() / "recipes" / "sandbox.yaml", "sandbox", "s3://b/o u t", ("--scale", "6x"))
    lines: list[str] = []
    write_cloud(call, site_of(AWS), lines.append, dry_run=True)
    assert not (tmp_path / "cluster.yaml").exists()
    write_cloud(call, site_of(AWS), lines.append, dry_run=False)
    assert (tmp_path / "cluster.yaml").read_text() == lines[0]
    said = [shlex.split(line, comments=True) for line in lines[1].splitlines()[1:]]
    assert ["ray", "up", "--yes", "cluster.yaml"] in said
    assert ["ray", "down", "--yes", "cluster.yaml"] in said
    [submit] = [words for words in said if "submit" in words]
    assert submit[-4:] == ["--out", "s3://b/o u t", "--to", "job:http://localhost:8265"]
    write_cloud(call, site_of(AWS), lines.append, dry_run=False)
    with pytest.raises(ValueError, match=r"cluster\.yaml: found a file that says something else"):
        write_cloud(call, site_of({**AWS, "region": "eu-west-1"}), lines.append, dry_run=False)
