"""The front door as it is typed: a dry run tells all and touches nothing, a mistake is one line."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import sixfold
from shards.disk.address import one_spelling
from shards.disk.home import home
from tests.support.waits import without_waits


def says(cwd: Path, *words: str, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, str(home() / "sixfold.py"), *words],
        cwd=cwd,
        env={**os.environ, "XDG_CONFIG_HOME": str(cwd / "settings"), "PATH": "/usr/bin:/bin"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=200,
    )
    assert done.returncode == code, done.stdout
    return without_waits(done.stdout)


def test_a_dry_run_tells_plan_cost_script_and_commands_and_touches_nothing(tmp_path: Path) -> None:
    site = tmp_path / "settings/sixfold/site.yaml"
    site.parent.mkdir(parents=True)
    site.write_text("partition: gpu\ngpus_per_node: 8\nprice_per_gpu_hour: 2.0\n")
    text = says(
        tmp_path, "submit", "generate", "recipes/sandbox.yaml", "--scale", "2x", "--dry-run", "cluster.site.nodes=4"
    )
    for told in (
        *("images   400 (2x), 64 px", "shards   8 of at most 50 images", "on 32 GPUs", "GPU-hours", "at 2 a GPU-hour"),
        *("#SBATCH --nodes=4", "#SBATCH --partition=gpu", "#SBATCH --gres=gpu:8", "would run:", "sbatch --parsable"),
    ):
        assert told in text
    assert "#SBATCH --signal B:USR1@120" in text, "it must not be hidden as a secret"
    assert "the job asks for no GPU" not in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["settings"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            "submit",
            "sixfold submit: found nothing, expected one of generate, edit, retrieve, train, sweep and a recipe",
        ),
        ("submit paint recipes/sandbox.yaml", "sixfold submit: found paint, expected one of generate"),
        ("submit generate", "sixfold submit: found generate without a recipe"),
        ("submit generate no.yaml", "no.yaml: no such recipe"),
        (
            "submit generate recipes/sandbox.yaml --to moon",
            "--to: found 'moon', expected local, slurm, ray://HOST:PORT",
        ),
        ("submit generate recipes/sandbox.yaml cluster.site.nods=4", "did you mean `nodes`?"),
        ("submit train recipes/sandbox.yaml", "found a recipe of `sixfold generate`, expected one of `sixfold train`"),
        (
            "submit train recipes/sandbox-train.yaml cluster.site.gpus_per_node=8 --to k8s --dry-run",
            "found single with 8 processes, expected one; set engine.kind: ddp or deepspeed; the job has 8",
        ),
        (
            "submit train recipes/sandbox-train.yaml engine.kind=ddp cluster.site.nodes=3 --to job:http://localhost:1 "
            "--dry-run",
            "groups for 3 ranks, expected a multiple of the ranks; change one of the two; the job has 3",
        ),
        (
            "submit train recipes/sandbox-train.yaml cluster.site.gpus_per_node=8 --to ray://h:1",
            "found single with 8 processes, expected one; set engine.kind: ddp or deepspeed; the job has 8",
        ),
        (
            "submit --init",
            "site.yaml by hand: a line each for partition, account, nodes, gpus_per_node, cpus_per_node and time",
        ),
        ("logs out", "out: found no job, expected one that `sixfold submit` has sent"),
        ("node ray --meeting m --out o -- generate", "expected a step of SLURM; this verb is for the scripts"),
        ("node moon --meeting m --out o -- generate", "sixfold node: found moon, expected ray, array or ranks"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, words: str, line: str) -> None:
    text = says(tmp_path, *shlex.split(words), code=2)
    assert len(text.splitlines()) == 1, text
    assert line in text


def test_what_a_verb_refuses_is_refused_before_anything_is_submitted(tmp_path: Path) -> None:
    text = says(tmp_path, "submit", "generate", "recipes/sandbox.yaml", "sampler.model=no/model", code=2)
    assert "no/model" in text
    assert "found no description of this site, and SLURM gives none" in text
    assert "run `sixfold submit --init` on a login node, or write" in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("out", ["file:///data/x", "~/x", "s3://b//x/", "out/x"])
def test_an_output_means_what_it_means_to_the_verb_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], out: str
) -> None:
    monkeypatch.setattr("cluster.verbs._check", lambda *_, **__: None)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    words = ["submit", "generate", str(home() / "recipes/sandbox.yaml"), "--to", "local", "--dry-run", "--out", out]
    sixfold.command_line()([*words, "--images-per-s", "1"], standalone_mode=False)
    assert shlex.split(capsys.readouterr().out.splitlines()[-1])[-2:] == ["--out", one_spelling(out)]


def test_a_dry_run_for_elsewhere_needs_no_keys_of_its_store_here(tmp_path: Path) -> None:
    place = ("--to", "k8s", "--out", "s3://bucket/x", "cluster.site.kubernetes.image=registry.example/sixfold:1")
    text = says(tmp_path, "submit", "generate", "recipes/sandbox.yaml", *place, "--dry-run")
    assert "kind: RayJob" in text
    assert "the job asks for no GPU: cluster.site.gpus_per_node is 0" in text
    assert "on this machine: s3://bucket/x: cannot be read" in text


def test_a_training_on_a_ray_cluster_has_a_rank_for_each_of_its_gpus(tmp_path: Path) -> None:
    site = ("cluster.site.nodes=2", "cluster.site.gpus_per_node=4", "engine.kind=ddp", "schedule.groups=8")
    text = says(tmp_path, "submit", "train", "recipes/sandbox-train.yaml", *site, "--to", "ray://h:1", "--dry-run")
    [line] = [line for line in text.splitlines() if line.startswith("would run: sixfold train")]
    words = shlex.split(line)
    assert words[words.index("--ranks") + 1] == "8"


def test_an_output_that_nothing_was_submitted_for_has_nothing_to_cancel(tmp_path: Path) -> None:
    assert "out: found no job, expected one that `sixfold submit` has sent" in says(tmp_path, "cancel", "out", code=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("limit", "line"),
    [
        (
            "CHECK_S",
            r"^`sixfold generate .* --dry-run`: not done within 0 minutes, expected the plan; run",
        ),
        ("CALIBRATE_S", "--calibrate: made no shard here within 0 minutes; run it on a machine with a GPU, or give"),
    ],
)
def test_what_takes_too_long_before_a_submission_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, line: str
) -> None:
    monkeypatch.setattr(f"cluster.verbs.{limit}", 0.05)
    if limit == "CALIBRATE_S":
        monkeypatch.setattr("cluster.verbs._check", lambda *_, **__: None)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    words = ["submit", "generate", str(home() / "recipes/sandbox.yaml"), "--to", "k8s", "--dry-run", "--calibrate"]
    with pytest.raises(ValueError, match=line):
        sixfold.command_line()([*words, "--out", str(tmp_path / "out")], standalone_mode=False)
