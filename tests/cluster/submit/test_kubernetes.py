"""A call as a RayJob: the manifest fits KubeRay's definition and says what the site says; a stand-in for `kubectl`
answers for Kubernetes."""

import base64
import dataclasses
import json
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from cluster.recipes.site import KubernetesSpec, RayJobSpec, SiteSpec
from cluster.submit import kubernetes
from cluster.submit.book import Book
from cluster.submit.call import Call
from cluster.submit.kubernetes import manifest
from cluster.submit.state import JobError
from cluster.submit.submit import SHOWN_JOBS, cancel_jobs, jobs_of, preview_k8s, submit_k8s, tails, told_jobs
from shards.disk.home import home
from tests.support.rayjob_schema import CONFIG_MAP, RAY_JOB

IMAGE = {"image": "registry.example/sixfold:1"}
FULL = {
    **IMAGE,
    **{"namespace": "vision", "service_account": "reader", "memory": "64Gi", "shm": "8Gi", "head_cpus": 3},
    "claims": [{"claim": "data", "path": "/data"}, {"claim": "models", "path": "/models", "read_only": True}],
    **{"secrets": ["s3-keys"], "token_secret": "ray-token", "node_selector": {"cloud.google.com/gke-spot": "true"}},
    "tolerations": [{"key": "cloud.google.com/gke-spot", "value": "true", "effect": "NoSchedule"}, {"key": "gpu"}],
    **{"backoff_limit": 5, "ttl_s": 30},
}


def site_of(kubernetes: dict | None = None, **fields) -> SiteSpec:
    return SiteSpec(kubernetes=KubernetesSpec.model_validate(kubernetes or IMAGE), **fields)


def call_of(out="s3://bucket/set", named=(), verb="generate") -> Call:
    return Call(verb, home() / "recipes" / "sandbox.yaml", "sandbox", str(out), ("--scale", "6x"), tuple(named))


def objects_of(call: Call, site: SiteSpec, name="sixfold-sandbox-1") -> tuple[dict, dict]:
    """The ConfigMap and the RayJob, checked."""
    files, job = yaml.safe_load_all(manifest(call, site, name))
    jsonschema.validate(files, CONFIG_MAP)
    jsonschema.validate(job, RAY_JOB)
    return files, job


def pods_of(job: dict) -> tuple[dict, dict]:
    cluster = job["spec"]["rayClusterSpec"]
    [workers] = cluster["workerGroupSpecs"]
    return cluster["headGroupSpec"]["template"]["spec"], workers["template"]["spec"]


# ---------------------------------------------------------------- the manifest


@pytest.mark.parametrize("kubernetes", [IMAGE, FULL], ids=["least", "all"])
@pytest.mark.parametrize("gpus", [0, 8])
def test_every_manifest_fits_kuberays_definition(kubernetes: dict, gpus: int) -> None:
    job = RayJobSpec(entrypoint_cpus=1, entrypoint_gpus=0.5)
    objects_of(call_of(), site_of(kubernetes, gpus_per_node=gpus, cpus_per_node=32, nodes=4, job=job))


@pytest.mark.parametrize(
    "change",
    [
        lambda job: job["spec"].update(backofLimit=3),
        lambda job: job["spec"].update(backoffLimit="3"),
        lambda job: job["spec"]["rayClusterSpec"].pop("headGroupSpec"),
        lambda job: pods_of(job)[0]["containers"][0].update(cpu=1),
        lambda job: job["metadata"].update(name="x" * 48),
    ],
    ids=["misspelt", "another type", "missing", "misplaced", "a long name"],
)
def test_the_definition_finds_a_field_that_is_wrong(change) -> None:
    _, job = objects_of(call_of(), site_of())
    change(job)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(job, RAY_JOB)


def test_workers_are_the_sites_machines_and_the_head_holds_the_program_alone() -> None:
    _, job = objects_of(call_of(), site_of(FULL, nodes=4, gpus_per_node=8, cpus_per_node=64))
    cluster = job["spec"]["rayClusterSpec"]
    [workers] = cluster["workerGroupSpecs"]
    assert [workers[name] for name in ("replicas", "minReplicas", "maxReplicas")] == [4, 4, 4]
    head, worker = pods_of(job)
    assert worker["containers"][0]["resources"]["limits"] == {"cpu": "64", "memory": "64Gi", "nvidia.com/gpu": "8"}
    assert head["containers"][0]["resources"]["limits"] == {"cpu": "3", "memory": "8Gi"}
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert worker["tolerations"] == [
        {"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"},
        {"key": "gpu", "operator": "Exists"},
    ]
    assert worker["nodeSelector"] == {"cloud.google.com/gke-spot": "true"}
    assert "tolerations" not in head
    assert "nodeSelector" not in head


def test_all_pods_see_the_volumes_and_the_secrets_and_ray_asks_for_a_token() -> None:
    _, job = objects_of(call_of(), site_of(FULL))
    for pod in pods_of(job):
        [container] = pod["containers"]
        mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
        assert mounts.keys() == {"/etc/sixfold", "/dev/shm", "/data", "/models"}
        assert mounts["/models"]["readOnly"] is True
        assert {mount["name"] for mount in mounts.values()} == {volume["name"] for volume in pod["volumes"]}
        assert container["envFrom"] == [{"secretRef": {"name": "s3-keys"}}]
        assert pod["serviceAccountName"] == "reader"
    assert job["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token", "secretName": "ray-token"}
    _, made = objects_of(call_of(), site_of())
    assert made["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}


def test_a_program_that_failed_is_begun_again_and_the_cluster_goes_at_the_end() -> None:
    spec = objects_of(call_of(), site_of(FULL))[1]["spec"]
    assert (spec["backoffLimit"], spec["shutdownAfterJobFinishes"], spec["ttlSecondsAfterFinished"]) == (5, True, 30)


def test_a_worker_that_is_to_go_drains_its_node_within_the_time_that_it_has() -> None:
    _, worker = pods_of(objects_of(call_of(), site_of())[1])
    command = worker["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert command[:2] == ["sixfold", "drain"]
    assert float(command[command.index("--within") + 1]) < worker["terminationGracePeriodSeconds"]


def test_the_recipe_and_its_small_files_travel_and_the_call_finds_them_there(tmp_path: Path) -> None:
    (tmp_path / "classes & co.csv").write_text("name\nzéro\n")
    (tmp_path / "odd.bin").write_bytes(b"\xff\x00")
    named = [
        ("classes.source", "x", tmp_path / "classes & co.csv"),
        ("meanings.overrides", "y", tmp_path / "odd.bin"),
        ("sampler.model", "sandbox/models/generator", home() / "sandbox" / "models" / "generator"),
    ]
    files, job = objects_of(call_of(named=named), site_of())
    assert files["data"].keys() == {"run.sh", "0-sandbox.yaml", "1-classes___co.csv"}
    assert files["data"] | {"run.sh": ""} == {
        "run.sh": "",
        "0-sandbox.yaml": (home() / "recipes" / "sandbox.yaml").read_text(),
        "1-classes___co.csv": "name\nzéro\n",
    }
    assert base64.b64decode(files["binaryData"]["2-odd.bin"]) == b"\xff\x00"
    assert job["spec"]["entrypoint"] == "bash /etc/sixfold/run.sh"
    assert shlex.split(files["data"]["run.sh"]) == [
        *("exec", "sixfold", "generate", "/etc/sixfold/0-sandbox.yaml", "--scale", "6x"),
        *("classes.source=/etc/sixfold/1-classes___co.csv", "meanings.overrides=/etc/sixfold/2-odd.bin"),
        *("--out", "s3://bucket/set"),
    ]


def test_no_word_of_a_user_becomes_a_word_of_a_shell(tmp_path: Path) -> None:
    """Several shells and programs stand between the manifest and the program; what they see has no word of a user."""
    word = "prompts.note='$(touch made); `touch made` \"\\'"
    call = Call("generate", home() / "recipes" / "sandbox.yaml", "n", "s3://b/$(touch made)", (word,))
    files, job = objects_of(call, site_of({**IMAGE, "program": "echo"}))
    seen = json.dumps(job["spec"])
    assert "touch made" not in seen
    script = files["data"]["run.sh"].replace("exec echo", "printf '%s\\n'")
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=20, cwd=tmp_path)
    assert done.stdout.splitlines() == [
        "generate",
        "/etc/sixfold/0-sandbox.yaml",
        word,
        "--out",
        "s3://b/$(touch made)",
    ]
    assert list(tmp_path.iterdir()) == []


def test_places_that_no_pod_sees_are_refused_with_the_ones_that_all_see(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=rf"^{tmp_path}/out: found a place of this machine, expected an address"):
        manifest(call_of(tmp_path / "out"), site_of(), "n")
    with pytest.raises(JobError, match=r"claims \(there are /data, /models\)"):
        manifest(call_of("/database"), site_of(FULL), "n")
    objects_of(call_of("/data/out", [("meanings.real", "real", Path("/models/real"))]), site_of(FULL))


def test_files_that_are_too_much_for_an_object_are_refused(tmp_path: Path) -> None:
    named = []
    for number in range(4):
        (tmp_path / str(number)).write_bytes(bytes(290_000))
        named.append((f"a.{number}", "x", tmp_path / str(number)))
    with pytest.raises(JobError, match=r"found 1\.2 MB with the files that it names, expected at most 900 kB"):
        manifest(call_of(named=named), site_of(), "n")


def test_a_site_without_kubernetes_is_told_what_is_missing() -> None:
    with pytest.raises(JobError, match=r"cluster\.site\.kubernetes: found nothing, expected at least the image"):
        preview_k8s(call_of(), SiteSpec())


def test_a_training_on_several_gpus_starts_its_ranks_over_ray() -> None:
    def words(verb: str, **fields) -> list[str]:
        files, _ = yaml.safe_load_all(preview_k8s(call_of(verb=verb), site_of(**fields)).rpartition("\nwould run")[0])
        return shlex.split(files["data"]["run.sh"])

    several = words("train", nodes=2, gpus_per_node=4)
    assert several[several.index("--ranks") + 1] == "8"
    assert "--ranks" not in words("train")
    assert "--ranks" not in words("generate", nodes=2, gpus_per_node=4)


# ---------------------------------------------------------------- by kubectl

KUBECTL = """#!{python}
import json, os, sys
from pathlib import Path
state = Path({state!r})
words = [word for word in sys.argv[1:] if not word.startswith("--request-timeout")]
with (state / "calls").open("a") as calls:
    calls.write(json.dumps(words) + "\\n")
if (state / "fails").exists():
    print((state / "fails").read_text(), file=sys.stderr)
    sys.exit(1)
files = [Path(word.partition("=")[2]) for word in words if word.startswith("--filename=")]
if words[0] == "apply" and any(file.stat().st_size > 262_144 for file in files):
    print("metadata.annotations: Too long: must have at most 262144 bytes", file=sys.stderr)
    sys.exit(1)
if words[0] in ("apply", "create"):
    (state / "job").write_text(json.dumps({{"status": {{}}}}))
elif words[0] == "delete":
    (state / "job").unlink(missing_ok=True)
elif words[0] == "get":
    if not (state / "job").exists():
        print('Error from server (NotFound): rayjobs.ray.io "x" not found', file=sys.stderr)
        sys.exit(1)
    print((state / "job").read_text())
elif words[0] == "logs":
    print("one\\ntwo\\nthree")
"""


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `kubectl` that keeps one job; the folder of what it was asked and is to answer."""
    state, programs = tmp_path / "state", tmp_path / "programs"
    state.mkdir()
    programs.mkdir()
    program = programs / "kubectl"
    program.write_text(KUBECTL.format(python=sys.executable, state=str(state)))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    return state


def on_a_volume(tmp_path: Path) -> tuple[Call, SiteSpec]:
    return call_of(tmp_path / "out"), site_of({**FULL, "claims": [{"claim": "data", "path": str(tmp_path)}]})


def test_a_job_is_handed_over_found_read_and_cancelled_by_its_output(kubectl: Path, tmp_path: Path) -> None:
    call, site = on_a_volume(tmp_path)
    lines: list[str] = []
    receipt = submit_k8s(call, site, lines.append)
    [name] = receipt.ids
    file = Path(receipt.folder) / "rayjob.yaml"
    assert [item["metadata"]["name"] for item in yaml.safe_load_all(file.read_text())] == [name, name]
    assert len(name) <= 47
    assert json.loads((kubectl / "calls").read_text()) == ["create", f"--filename={file}"]
    book = Book.of(call.out)
    assert [job.told for job in jobs_of(book)] == [f"job {name} of Kubernetes, namespace vision, is pending"]
    with pytest.raises(ValueError, match=rf"job {name} of Kubernetes, namespace vision, is pending; wait for it"):
        submit_k8s(call, site, print)
    assert tails(receipt, 2) == {"": ("two\nthree", 14)}
    assert cancel_jobs(call.out, lines.append) == 1
    assert not (kubectl / "job").exists()
    assert [job.told for job in jobs_of(book)] == [f"job {name} of Kubernetes, namespace vision, is over"]
    assert cancel_jobs(call.out, print) == 0
    submit_k8s(call, site, print)
    assert [one.number for one in book.receipts()] == [1, 2]


def test_a_file_that_passed_our_check_is_taken_by_kubectl(kubectl: Path, tmp_path: Path) -> None:
    (tmp_path / "classes.csv").write_text("name\n" * 58_000)
    call, site = on_a_volume(tmp_path)
    submit_k8s(dataclasses.replace(call, named=(("classes.source", "x", tmp_path / "classes.csv"),)), site, print)
    assert (kubectl / "job").exists()


@pytest.mark.parametrize(
    ("status", "told", "lives"),
    [
        ({"jobDeploymentStatus": "Initializing"}, "is initializing", True),
        (
            {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING", "failed": 2},
            "is running, queued again 2 times",
            True,
        ),
        ({"jobDeploymentStatus": "Retrying", "failed": 1}, "is retrying, queued again 1 time", True),
        ({"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}, "is succeeded", False),
        ({"jobDeploymentStatus": "Complete", "jobStatus": "STOPPED"}, "is stopped", False),
        (
            {"jobDeploymentStatus": "Failed", "reason": "AppFailed", "message": "exit\ncode 1", "failed": 4},
            "is failed (exit code 1), queued again 4 times",
            False,
        ),
    ],
)
def test_the_state_is_the_one_of_kuberay(kubectl: Path, tmp_path: Path, status: dict, told: str, lives: bool) -> None:
    call, site = on_a_volume(tmp_path)
    submit_k8s(call, site, print)
    (kubectl / "job").write_text(json.dumps({"status": status}))
    [job] = jobs_of(Book.of(call.out))
    assert (job.told.partition(", namespace vision, ")[2], job.lives) == (told, lives)


def test_a_status_asks_for_the_newest_jobs_alone(kubectl: Path, tmp_path: Path) -> None:
    call, site = on_a_volume(tmp_path)
    for _ in range(SHOWN_JOBS + 2):
        submit_k8s(call, site, print)
        cancel_jobs(call.out, print)
    (kubectl / "calls").unlink()
    names = [receipt.ids[0] for receipt in Book.of(call.out).receipts()]
    assert told_jobs(call.out) == [
        f"job {name} of Kubernetes, namespace vision, is over" for name in names[-SHOWN_JOBS:]
    ]
    [asked] = (kubectl / "calls").read_text().splitlines()
    assert names[-1] in asked, "the others were seen to be over before the next one was submitted"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("error: You must be logged in to the server", "kubectl: error: You must be logged in to the server"),
        (
            'error: resource mapping not found: no matches for kind "RayJob" in version "ray.io/v1"',
            "kubectl: the cluster knows no RayJob; ask for the KubeRay operator",
        ),
    ],
)
def test_what_kubernetes_refuses_is_told_in_a_line_and_leaves_no_receipt(
    kubectl: Path, tmp_path: Path, said: str, told: str
) -> None:
    (kubectl / "fails").write_text(said)
    call, site = on_a_volume(tmp_path)
    with pytest.raises(JobError) as error:
        submit_k8s(call, site, print)
    assert str(error.value).startswith(told)
    assert "\n" not in str(error.value)
    assert Book.of(call.out).receipts() == []


@pytest.mark.parametrize(
    "said", ["Unable to connect to the server: EOF", "Error from server (Timeout): request timed out"]
)
def test_a_job_whose_answer_is_lost_keeps_its_receipt(kubectl: Path, tmp_path: Path, said: str) -> None:
    (kubectl / "fails").write_text(said)
    call, site = on_a_volume(tmp_path)
    with pytest.raises(JobError):
        submit_k8s(call, site, print)
    assert len(Book.of(call.out).receipts()) == 1, "it may be there all the same"


def test_a_kubectl_that_does_not_answer_is_not_waited_for(
    kubectl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubernetes, "COMMAND_S", -9.5)
    (tmp_path / "programs" / "kubectl").write_text("#!/bin/sh\nexec sleep 20\n")
    call, site = on_a_volume(tmp_path)
    with pytest.raises(JobError, match="no answer within"):
        submit_k8s(call, site, print)
    assert len(Book.of(call.out).receipts()) == 1, "it may be there all the same"


def test_where_there_is_no_kubectl_the_manifest_is_written_and_what_to_run_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    call, site = on_a_volume(tmp_path)
    file = tmp_path / "out" / "_meta" / "jobs" / "00001" / "rayjob.yaml"
    with pytest.raises(JobError, match=rf"the manifest is written: run `kubectl create -f {file}` where"):
        submit_k8s(call, site, print)
    for item, schema in zip(yaml.safe_load_all(file.read_text()), (CONFIG_MAP, RAY_JOB), strict=True):
        jsonschema.validate(item, schema)
    assert Book.of(call.out).receipts() == []
