"""The script for SLURM: what it asks for, what it starts, and that no word of a user is a word of the shell."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import sixfold
from cluster.recipes.site import SiteSpec
from cluster.submit.call import VERBS, Call, Target, Verb, parse_target
from cluster.submit.slurm_script import slurm_script, words_of

PROGRAM = ("/env/bin/python", "/code/sixfold.py")
FOLDER = Path("/data/out/_meta/jobs/00001")


def script_of(verb="generate", out="/data/out", arguments=("--scale", "6x"), **site):
    call = Call(verb, Path("/recipes/r.yaml"), "name", out, arguments)
    return slurm_script(call, SiteSpec(**site), FOLDER, Path("/work"), PROGRAM)


def head_of(text):
    return [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH ")]


def step_of(text):
    """The words of the step, as bash takes them apart."""
    (line,) = re.findall(r"^(srun .*) &\nstep=", text, re.MULTILINE | re.DOTALL)
    return shlex.split(line.replace(" \\\n", " "))


def checked(text):
    done = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, timeout=20)
    assert done.returncode == 0, done.stderr
    return text


def test_a_job_asks_for_what_the_site_needs() -> None:
    text = checked(
        script_of(
            nodes=4,
            gpus_per_node=8,
            gpu_option="--gpus-per-node=h100:{gpus}",
            cpus_per_node=64,
            partition="gpu",
            account="vision",
            qos="low",
            time="1-00:00:00",
            options=["--mem=0", "--exclusive"],
            warn_s=300,
        ).text
    )
    head = head_of(text)
    for asked in (
        *("--nodes=4", "--ntasks-per-node=1", "--cpus-per-task=64", "--gpus-per-node=h100:8", "--partition=gpu"),
        *("--account=vision", "--qos=low", "--time=1-00:00:00", "--signal B:USR1@300", "--requeue", "--mem=0"),
        *("--exclusive", "--open-mode=append", f"--output={FOLDER}/%j.log", "--chdir=/work"),
    ):
        assert asked in head


def test_what_a_site_does_not_say_is_not_asked_for() -> None:
    head = " ".join(head_of(script_of().text))
    assert not re.search("partition|account|qos|gres|gpus|cpus", head)


def test_ray_runs_one_process_on_each_machine() -> None:
    words = step_of(checked(script_of(nodes=4, gpus_per_node=8).text))
    assert {"--nodes=4", "--ntasks=4", "--ntasks-per-node=1"} <= set(words)
    assert words[words.index("node") + 1] == "ray"
    assert words[words.index("--") + 1 :] == ["generate", "/recipes/r.yaml", "--scale", "6x", "--out", "/data/out"]


def test_a_training_has_a_rank_for_each_gpu() -> None:
    script = script_of("train", arguments=(), nodes=2, gpus_per_node=8, cpus_per_node=64, how="array").text
    words = step_of(checked(script))
    assert {"--nodes=2", "--ntasks=16", "--ntasks-per-node=8", "--cpus-per-task=8"} <= set(words)
    assert words[words.index("node") + 1] == "ranks"
    assert "RAY_AUTH" not in script


def test_tasks_of_an_array_have_one_gpu_each_and_share_the_output() -> None:
    script = script_of(how="array", tasks=25, max_array=10, most_at_once=4, gpus_per_node=8, nodes=3)
    head, words = head_of(checked(script.text)), step_of(script.text)
    assert {"--nodes=1", "--gres=gpu:1", f"--output={FOLDER}/%A_%a.log"} <= set(head)
    assert {"cluster.in_process=true", "cluster.shared=true", "--no-gallery"} <= set(words)
    assert script.submissions == (("--array=0-9%4",), ("--array=0-9%4",), ("--array=0-4%4",))


def test_a_sweep_has_no_tasks_that_claim_units() -> None:
    script = script_of("sweep", arguments=(), how="array", tasks=4, nodes=2)
    words = step_of(checked(script.text))
    assert words[words.index("node") + 1] == "ray"
    assert "--nodes=2" in words
    assert words[words.index("--") + 1 :] == ["sweep", "/recipes/r.yaml", "--out", "/data/out"]
    assert script.submissions == ((),)


@pytest.mark.parametrize("how", ["ray", "array"])
@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_knows_the_words_that_a_job_gives_it(verb: Verb, how: str) -> None:
    scaled = ("--scale", "1x") if verb in ("generate", "edit", "retrieve") else ()
    words = words_of(Call(verb, Path("no.yaml"), "name", "/no/out", scaled), SiteSpec(how=how))
    with pytest.raises(ValueError, match=r"^no.yaml: no such recipe"):
        sixfold.command_line()(words, standalone_mode=False)


@pytest.mark.parametrize(
    ("verb", "site", "cores"),
    [
        ("generate", {}, None),  # what the site gives
        ("generate", {"gpus_per_node": 8}, 8),  # else one core, hence one worker, for eight GPUs
        ("generate", {"gpus_per_node": 8, "cpus_per_node": 64}, 64),
        ("train", {"gpus_per_node": 8, "cpus_per_node": 64}, 8),
        ("generate", {"how": "array", "gpus_per_node": 8, "cpus_per_node": 64}, 8),  # else one task fills a machine
        ("generate", {"how": "array", "cpus_per_node": 64}, 1),
        ("generate", {"how": "array"}, 1),
    ],
)
def test_every_gpu_has_its_share_of_the_cores(verb: str, site: dict[str, object], cores: int | None) -> None:
    script = script_of(verb, arguments=(), **site).text
    asked = [word for word in [*head_of(script), *step_of(script)] if word.startswith("--cpus-per-task")]
    assert asked == ([] if cores is None else [f"--cpus-per-task={cores}"] * 2)


@given(tasks=st.integers(1, 100_000), most=st.integers(1, 5000))
def test_arrays_hold_every_task_once_and_none_is_above_the_sites_cap(tasks: int, most: int) -> None:
    sizes = [
        int(option.removeprefix("--array=0-")) + 1
        for (option,) in script_of(how="array", tasks=tasks, max_array=most).submissions
    ]
    assert sum(sizes) == tasks
    assert max(sizes) <= most


def test_containers_hold_the_step_and_not_the_script() -> None:
    box = {"kind": "pyxis", "image": "nvcr.io#own/sixfold:1", "mounts": ["/scratch", "/data:/data:ro"]}
    words = step_of(checked(script_of(container=box).text))
    assert "--container-image=nvcr.io#own/sixfold:1" in words
    assert "--container-mounts=/scratch,/data:/data:ro" in words
    assert words[words.index("node") - 1] == "sixfold"
    box = {"kind": "apptainer", "image": "/apps/my box.sif", "mounts": ["/scratch"]}
    words = step_of(checked(script_of(container=box, gpus_per_node=1).text))
    assert words[words.index("apptainer") :][:5] == ["apptainer", "exec", "--nv", "--bind=/scratch", "/apps/my box.sif"]


def test_lines_of_the_site_run_first_and_as_they_are() -> None:
    text = checked(script_of(setup=["module load cuda/12", 'export A="b c"']).text)
    assert text.index("module load cuda/12\n") < text.index('export A="b c"\n') < text.index("srun ")


@pytest.mark.parametrize(
    ("chain", "holds", "lacks"),
    [
        ("requeue", 'scontrol requeue "$SLURM_JOB_ID"', "sbatch "),
        ("resubmit", "sbatch --parsable ${SLURM_ARRAY_TASK_ID:+--array=$SLURM_ARRAY_TASK_ID}", "scontrol"),
        ("never", 'exit "$code"', "scontrol"),
    ],
)
def test_work_goes_on_past_the_time_limit_as_the_site_wants(chain: str, holds: str, lacks: str) -> None:
    text = checked(script_of(chain=chain).text)
    body = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    assert holds in body
    assert lacks not in body
    assert ("--requeue" in head_of(text)) == (chain == "requeue")


HOSTILE = [
    "a b",
    "$(touch pwned)",
    "`touch pwned`",
    "'; touch pwned; '",
    "a\nb",
    '"x"',
    "*",
    "~",
    "\\",
    "%j",
    "é",
    "-x",
]


@given(
    word=st.one_of(
        st.sampled_from(HOSTILE), st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)
    )
)
def test_a_word_of_the_user_stays_one_word(word: str) -> None:
    words = step_of(checked(script_of(out=f"/data/{word}", arguments=(f"a={word}",)).text))
    assert f"a={word}" in words
    assert words[-1] == f"/data/{word}"


@pytest.mark.parametrize("field", ["partition", "account", "qos"])
@pytest.mark.parametrize("value", ["a b", "a\nb", 'a"b', "a'b", "$HOME", "a`b`", "a;b", "", "x" * 201])
def test_a_line_that_slurm_reads_takes_no_second_word(field: str, value: str) -> None:
    with pytest.raises(ValidationError, match="expected one word"):
        SiteSpec(**{field: value})


@pytest.mark.parametrize("value", ["tmp", "/a b", "/tmp/$(x)", "/" + "x" * 20, ""])
def test_the_scratch_folder_leaves_room_for_sockets(value: str) -> None:
    with pytest.raises(ValidationError, match="expected the whole path of a folder"):
        SiteSpec(scratch=value)


@pytest.mark.parametrize("option", ["mem=0", "-N2", "--mem=0 --exclusive", "--mem=0\n#SBATCH --x", "--a=$(b)", "--A=1"])
def test_options_are_options(option: str) -> None:
    with pytest.raises(ValidationError, match=r"expected (an option such as|one word)"):
        SiteSpec(options=[option])


@pytest.mark.parametrize("time", ["4h", "1:2:3:4", "04:00:00\n", "", "soon"])
def test_times_are_slurms(time: str) -> None:
    with pytest.raises(ValidationError, match="expected hours:minutes:seconds"):
        SiteSpec(time=time)


def test_a_folder_with_a_percent_sign_is_no_pattern_of_slurm() -> None:
    call = Call("generate", Path("/r.yaml"), "name", "/data/100%j", ())
    text = slurm_script(call, SiteSpec(), Path("/data/100%j"), Path("/work dir"), PROGRAM).text
    assert "--output=/data/100%%j/%j.log" in head_of(text)
    assert '--chdir="/work dir"' in head_of(text)


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb"])
def test_a_folder_that_no_line_of_slurm_can_name_is_refused(name: str) -> None:
    call = Call("generate", Path("/r.yaml"), "name", "/data", ())
    with pytest.raises(ValueError, match="expected a folder without quotes, backslashes and line breaks"):
        slurm_script(call, SiteSpec(), Path("/data") / name, Path("/work"), PROGRAM)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("local", Target("local")),
        ("slurm", Target("slurm")),
        ("k8s", Target("k8s")),
        ("ray://head:6379", Target("ray", "head:6379")),
        ("ray://[::1]:6379", Target("ray", "[::1]:6379")),
        ("job:http://head:8265", Target("job", "http://head:8265")),
        ("job:https://head/", Target("job", "https://head")),
    ],
)
def test_places_are_named_as_the_documentation_says(text: str, target: Target) -> None:
    assert parse_target(text) == target
    assert parse_target(str(target)) == target


@pytest.mark.parametrize(
    "text", ["", "SLURM", "ray://", "ray://head", "ray://a b:1", "job:head", "job:ftp://x", "http://x"]
)
def test_other_places_are_refused_with_what_is_expected(text: str) -> None:
    with pytest.raises(ValueError, match=r"^--to: found .*, expected local, slurm, ray://HOST:PORT"):
        parse_target(text)
