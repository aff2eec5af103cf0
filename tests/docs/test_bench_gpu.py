"""The GPU benchmark runs: every row with tiny networks on the CPU, and what is written is what was found.

No speed is judged here. The networks of the real run are counted without their weights.
"""

import ast
import contextlib
import dataclasses
import io
import itertools
import json
import math
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from docs.bench import gpu as bench_gpu
from docs.bench.device import Verdict, over
from docs.bench.gpu import (
    GROUPS,
    HOME,
    NUMBERS,
    PAGE,
    ROWS,
    TINY_WORKS,
    TINY_WORLDS,
    WORKS,
    WORLDS,
    Bench,
    Group,
    Line,
    Once,
    Result,
    RowPlan,
    Tokens,
    alternate,
    build,
    check_stages,
    made_on,
    main,
    networks,
    ours_turn,
    photograph,
    read,
    sampler_spec,
    teraflop,
    tune,
    uncompiled,
    write,
)
from shards.disk.jpeg import encode_jpeg
from shards.disk.store import open_for_reading
from shards.set.manifest import scan_records

# numpy's, in the pipelines of diffusers; and torch's, of a profiler on the CPU
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What `--dry` prints, and the folder it wrote to; about 20 s, half of them row G16's second process."""
    out = tmp_path_factory.mktemp("docs")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["--dry", "--out", str(out)]) == 0, "in miniature no speed is judged"
    return printed.getvalue(), out


@pytest.fixture(scope="module")
def stock() -> Any:
    """A tiny Stable Diffusion."""
    return build(TINY_WORLDS["sd15"], False, "cpu", torch.float32)


@pytest.mark.parametrize("row", ROWS)
def test_every_row_runs_in_miniature_with_finite_figures(whole_run: tuple[str, Path], row: str) -> None:
    found = json.loads((whole_run[1] / NUMBERS).read_text())[row]
    assert found["not_measured"] is None
    assert found["verdicts"]
    samples = [one for line in found["lines"] for some in line["figures"].values() for one in some]
    assert samples
    assert all(math.isfinite(one) and one >= 0 for one in samples)


def test_in_miniature_only_exactness_is_judged(whole_run: tuple[str, Path]) -> None:
    rows = json.loads((whole_run[1] / NUMBERS).read_text())
    judged = {row for row, one in rows.items() if any(verdict["met"] is not None for verdict in one["verdicts"])}
    assert judged == {"X1-sd15", "X1-sdxl", "X1-flux"}
    assert all(verdict["met"] for row in judged for verdict in rows[row]["verdicts"])


def test_the_page_holds_what_was_printed_under_a_table_of_all_targets(whole_run: tuple[str, Path]) -> None:
    printed, out = whole_run
    page = (out / PAGE).read_text()
    assert all(one in page for one in printed.rstrip("\n").split("\n\n### "))
    summary = page.partition("### ")[0]
    assert all(f"| {row} |" in summary for row in ROWS)
    assert page.count("In miniature: no figure says anything.") == len(ROWS)


def test_the_numbers_say_where_they_were_found_and_beside_which_ceilings(whole_run: tuple[str, Path]) -> None:
    where = json.loads((whole_run[1] / NUMBERS).read_text())["G1"]["where"]
    assert where["dry"] is True
    assert {"Python", "torch", "diffusers", "transformers"} <= set(where["versions"])
    assert all(one > 0 for some in where["ceilings"].values() for one in some)


def test_nothing_in_the_output_names_the_machine(whole_run: tuple[str, Path]) -> None:
    import socket
    import tempfile

    printed, out = whole_run
    everything = printed + (out / NUMBERS).read_text() + (out / PAGE).read_text()
    for name in (socket.gethostname(), str(HOME.parent), str(Path.home()) + "/", tempfile.gettempdir() + "/", str(out)):
        assert name not in everything


def test_it_needs_little_more_than_torch_diffusers_and_the_sampler() -> None:
    tree = ast.parse((HOME / "bench_gpu.py").read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    others = {name for name in names if name.partition(".")[0] not in sys.stdlib_module_names}
    ours = {name for name in others if (HOME.parent / name.partition(".")[0]).exists()}
    generation = {
        "gen.sampler.batch_curve",
        "gen.make.refill",
        "gen.prompts.table",
        "gen.sampler.sampler",
        "gen.sampler.spec",
        "gen.sampler.text_to_image",
    }
    assert ours == generation | {"shards.disk.jpeg", "shards.disk.store", "docs.bench.device"}
    known = {"torch", "diffusers", "transformers", "numpy", "simplejpeg", "PIL", "torchvision"}
    assert {name.partition(".")[0] for name in others - ours} <= known


def test_a_run_loads_neither_ray_nor_what_trains_searches_or_decodes(tmp_path: Path) -> None:
    program = f"""
import sys
from docs.bench.gpu import main
code = main(["--dry", "--rows", "G5,G15", "--out", {str(tmp_path)!r}])
print(*{{name.partition(".")[0] for name in sys.modules}})
sys.exit(code)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=HOME.parent, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert list(read(tmp_path)) == ["G5", "G15"]
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "pyarrow" in loaded
    assert not loaded & {"ray", "deepspeed", "faiss", "webdataset", "open_clip", "openai", "cv2", "timm"}


@pytest.mark.parametrize(
    ("world", "parameters", "forward", "decoder"),
    [
        # published sizes of the weights; TFLOP of one forward and of the decoder at the size they are measured at
        ("sd15", {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480}, 0.803, 2.51),
        ("sdxl", {"unet": 2_567_463_684, "vae": 83_653_863, "text_encoder_2": 694_659_840}, 6.761, 10.47),
        ("flux", {"transformer": 11_891_178_560, "vae": 83_819_683, "text_encoder_2": 4_762_310_656}, 69.5, 10.47),
    ],
)
def test_the_architectures_are_the_published_ones(
    world: str, parameters: dict[str, int], forward: float, decoder: float
) -> None:
    with made_on("meta", torch.bfloat16, seed=0):
        parts = networks(WORLDS[world])
    found = {name: sum(one.numel() for one in part.parameters()) for name, part in parts.items()}
    assert parameters.items() <= found.items()
    once = dataclasses.replace(WORKS[world], steps=1, guidance=0.0)
    counted = teraflop(build(WORLDS[world], False, "meta", torch.bfloat16), once)
    assert counted["denoiser"] == pytest.approx(forward, rel=1e-3)
    assert counted["decoder"] == pytest.approx(decoder, rel=2e-3)


def test_guidance_doubles_the_denoiser_and_every_step_counts(stock: Any) -> None:
    work = TINY_WORKS["sd15"]
    once = teraflop(stock, dataclasses.replace(work, steps=1, guidance=0.0))
    whole = teraflop(stock, dataclasses.replace(work, steps=7, guidance=7.5))
    assert whole["denoiser"] == pytest.approx(14 * once["denoiser"])
    assert whole["decoder"] == once["decoder"]


def test_a_network_that_yields_nan_or_tiny_numbers_is_not_measured() -> None:
    work = TINY_WORKS["sd15"]
    for broken, stage in ((math.nan, "denoiser"), (0.0, "denoiser")):
        pipeline = build(TINY_WORLDS["sd15"], False, "cpu", torch.float32)
        pipeline.unet.conv_out.weight.data.fill_(broken)
        pipeline.unet.conv_out.bias.data.fill_(0)
        with pytest.raises(ValueError, match=f"sd15, {stage}: found a spread of .* another scale"):
            check_stages(pipeline, work)


def test_the_same_seed_makes_the_same_networks_and_leaves_the_caller_s_random_numbers_alone() -> None:
    def weights() -> torch.Tensor:
        with made_on("cpu", torch.float32, seed=0):
            made: torch.Tensor = networks(TINY_WORLDS["sd15"])["unet"].conv_in.weight
        return made

    before = torch.random.get_rng_state()
    assert torch.equal(weights(), weights())
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.get_default_dtype() == torch.float32


def test_a_text_has_the_same_tokens_every_time_and_another_text_has_others() -> None:
    tokens = Tokens(vocabulary=500, begin=(510,), end=511, model_max_length=77)
    ids = tokens(["a crane", "a crane", "a heron"], padding="max_length", return_tensors="pt").input_ids
    assert ids.shape == (3, 77)
    assert torch.equal(ids[0], ids[1])
    assert not torch.equal(ids[0], ids[2])
    assert ids[0, 0] == 510
    assert ids[0, -1] == 511
    assert int(ids[:, 1:].max()) == 511
    assert int(ids.min()) > 0


def test_a_photograph_is_the_same_every_time_and_compresses_like_one() -> None:
    image = photograph(256, seed=5)
    assert np.array_equal(image, photograph(256, seed=5))
    assert not np.array_equal(image, photograph(256, seed=6))
    across = np.abs(np.diff(image.astype(float), axis=1)).mean()
    anywhere = np.abs(np.diff(np.random.default_rng(0).permuted(image.astype(float), axis=None))).mean()
    assert across < anywhere / 2, "neighbours are alike"
    assert 0.3 < 8 * len(encode_jpeg(image, 95, "444")) / 256**2 < 8, "bits per pixel"


def test_our_written_side_is_a_unit_of_a_run_in_which_photographs_stand_for_random_pictures(tmp_path: Path) -> None:
    bench, work = _bench(time.perf_counter), TINY_WORKS["sd15"]
    pipeline = build(TINY_WORLDS["sd15"], False, "cpu", torch.float32)
    ours = tune(bench, pipeline, work, uncompiled(sampler_spec(bench, work), {}))
    turn = ours_turn(bench, ours, work, written=True)
    assert turn(tmp_path) == 8
    record = scan_records(open_for_reading(str(tmp_path)))[0]
    assert (record.successes, record.short) == (8, 0)
    with tarfile.open(tmp_path / "00000.tar") as tar:
        files = [tar.extractfile(name) for name in tar.getnames() if name.endswith(".jpg")]
        pictures = [file.read() for file in files if file is not None]
    shown = bench.photographs(work.size_px)
    for place, jpeg in enumerate(pictures):
        expected = shown[place % work.batch % len(shown)].astype(float)
        assert np.abs(np.asarray(Image.open(io.BytesIO(jpeg))) - expected).mean() < 4


@pytest.mark.parametrize("written", [True, False])
def test_a_picture_with_nan_ends_the_measurement(tmp_path: Path, written: bool) -> None:
    bench, work = _bench(time.perf_counter), dataclasses.replace(TINY_WORKS["sd15"], steps=1, batches=1)
    pipeline = build(TINY_WORLDS["sd15"], False, "cpu", torch.float32)
    ours = tune(bench, pipeline, work, uncompiled(sampler_spec(bench, work), {}))
    ours.pipeline.vae.decoder.conv_out.bias.data.fill_(math.nan)
    with pytest.raises(ValueError, match="with NaN or Inf" if not written else "NaN or Inf in the float image"):
        ours_turn(bench, ours, work, written)(tmp_path)


def test_the_sides_take_turns_and_a_ratio_is_taken_repeat_by_repeat() -> None:
    time_s = [0.0]
    turns = []

    def side(name: str, seconds: Sequence[float]) -> Callable[[Path], int]:
        left = iter(seconds)

        def turn(folder: Path) -> int:
            assert list(folder.iterdir()) == []
            turns.append(name)
            time_s[0] += next(left)
            return 6

        return turn

    sides = {"a": side("a", [1.0, 2.0, 3.0]), "b": side("b", [2.0, 2.0, 12.0])}
    rates = alternate(_bench(lambda: time_s[0]), sides, budget_s=1000)
    assert "".join(turns) == "ababab"
    assert rates == {"a": (6.0, 3.0, 2.0), "b": (3.0, 3.0, 0.5)}
    assert over(rates["a"], rates["b"]) == (2.0, 1.0, 4.0)


def test_slow_sides_are_repeated_less_often_but_at_least_once() -> None:
    time_s = [0.0]

    def turn(folder: Path) -> int:
        time_s[0] += 10
        return 1

    bench = _bench(lambda: time_s[0])
    assert [len(alternate(bench, {"a": turn}, budget_s)["a"]) for budget_s in (1, 25, 1000)] == [1, 2, 3]


def test_quick_sides_are_repeated_until_there_is_something_to_see() -> None:
    time_s = [0.0]

    def turn(folder: Path) -> int:
        time_s[0] += 0.3
        return 1

    (samples,) = alternate(_bench(lambda: time_s[0]), {"a": turn}, budget_s=100).values()
    assert 5 / 0.3 < len(samples) <= 18


def test_rows_can_be_chosen_and_g8_stands_for_its_three(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_gpu, "GROUPS", [dataclasses.replace(group, measure=_painted) for group in GROUPS])
    assert main(["--dry", "--rows", "G8,G3", "--out", str(tmp_path)]) == 0
    assert set(json.loads((tmp_path / NUMBERS).read_text())) == {"G8-sd15", "G8-sdxl", "G8-flux", "G3"}


def test_an_unknown_row_is_refused_with_the_names_of_all(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--dry", "--rows", "G1,G99"])
    assert f"found 'G99', expected some of {','.join(ROWS)}" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_what_can_be_run(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--rows", "G1"])
    assert "torch sees no GPU here; run with --dry" in capsys.readouterr().err


def test_an_interrupted_run_keeps_the_rows_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(bench: Bench) -> Iterator[RowPlan]:
        yield from itertools.islice(_painted(bench), 2)
        raise KeyboardInterrupt

    monkeypatch.setattr(bench_gpu, "GROUPS", [dataclasses.replace(GROUPS[0], measure=interrupted)])
    with pytest.raises(KeyboardInterrupt):
        main(["--dry", "--out", str(tmp_path)])
    assert list(json.loads((tmp_path / NUMBERS).read_text())) == ["G1", "G2"]
    assert "### G2" in (tmp_path / PAGE).read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == [NUMBERS, PAGE]


def test_a_row_that_fails_says_so_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing() -> Result:
        raise RuntimeError("out of memory\nand more")

    def group(bench: Bench) -> Iterator[RowPlan]:
        yield RowPlan("G5", failing)
        yield from itertools.islice(_painted(bench), 1, None)

    def dead(bench: Bench) -> Iterator[RowPlan]:
        raise RuntimeError("no networks")
        yield

    groups = [Group(("G5", "G6"), 0, group), Group(("G7", "G8-flux"), 0, dead), Group(("G9",), 0, _painted)]
    monkeypatch.setattr(bench_gpu, "GROUPS", groups)
    assert main(["--dry", "--out", str(tmp_path)]) == 1
    rows = json.loads((tmp_path / NUMBERS).read_text())
    assert rows["G5"]["not_measured"] == "FAILED, RuntimeError: out of memory"
    assert rows["G7"]["not_measured"] == rows["G8-flux"]["not_measured"] == "FAILED, RuntimeError: no networks"
    assert rows["G6"]["not_measured"] is rows["G9"]["not_measured"] is None


def test_what_rows_share_is_made_once_and_its_failure_is_theirs_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    def group(bench: Bench) -> Iterator[RowPlan]:
        def make(good: bool) -> str:
            tries.append(good)
            if not good:
                raise RuntimeError("no compiler")
            return "1"

        good, bad = Once(lambda: make(True)), Once(lambda: make(False))
        for row, shared in (("G1", bad), ("G2", bad), ("G13", good), ("G14", good)):
            yield RowPlan(row, lambda shared=shared: _result(Verdict("a target", shared(), None)), shared)  # type: ignore[misc]
        yield RowPlan("G16", lambda: _result(Verdict("a target", "2", None)))

    monkeypatch.setattr(bench_gpu, "GROUPS", [Group(("G1", "G2", "G13", "G14", "G16"), 0, group)])
    assert main(["--dry", "--out", str(tmp_path)]) == 1
    failed = {row: one.not_measured for row, one in read(tmp_path).items()}
    told = "FAILED, RuntimeError: no compiler"
    assert failed == {"G1": told, "G2": told, "G13": None, "G14": None, "G16": None}
    assert tries == [False, True]


def test_a_row_of_figures_that_are_there_already_is_told_when_the_time_is_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    time_s = [0.0]

    def group(bench: Bench) -> Iterator[RowPlan]:
        def make() -> str:
            time_s[0] += 1000
            return "1"

        shared = Once(make)
        for row in ("G1", "G2"):
            yield RowPlan(row, lambda: _result(Verdict("a target", shared(), None)), shared)
        yield RowPlan("G13", lambda: _result(Verdict("a target", "2", None)))

    def clock() -> float:
        time_s[0] += 0.001
        return time_s[0]

    monkeypatch.setattr(bench_gpu, "GROUPS", [Group(("G1", "G2", "G13"), 0, group)])
    assert main(["--dry", "--out", str(tmp_path)], clock) == 1
    failed = {row: one.not_measured for row, one in read(tmp_path).items()}
    assert failed == {"G1": None, "G2": None, "G13": "the time was up; run it with --rows"}


def test_a_second_run_makes_the_rest_and_keeps_what_the_first_one_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = {"date": "2026-01-01", "device": "a GPU", "cores": 2, "versions": {}, "ceilings": {}, "dry": False}
    first = dataclasses.replace(_result(Verdict("a target", "first", True)), where=where)
    write(tmp_path, {"G1": first, "G2": dataclasses.replace(first, not_measured="the time was up")})
    monkeypatch.setattr(bench_gpu, "GROUPS", [dataclasses.replace(group, measure=_painted) for group in GROUPS])
    assert main(["--dry", "--rows", "rest", "--out", str(tmp_path)]) == 0
    found = read(tmp_path)
    assert list(found) == list(ROWS)
    assert {row for row, one in found.items() if one.verdicts[0].found == "first"} == {"G1"}
    assert (tmp_path / PAGE).read_text().count("*Where:* 2026-01-01, a GPU, 2 CPU cores; ") == 1


def test_what_a_run_elsewhere_wrote_is_taken_over(tmp_path: Path) -> None:
    where = {"date": "2026-01-01", "device": "a GPU", "cores": 2, "versions": {}, "ceilings": {}, "dry": False}
    one = dataclasses.replace(_result(Verdict("a target", "1", True)), where=where)
    write(tmp_path / "away", {"G3": one})
    write(tmp_path / "home", {"G1": one})
    assert main(["--from", str(tmp_path / "away"), "--out", str(tmp_path / "home")]) == 0
    assert list(read(tmp_path / "home")) == ["G1", "G3"]
    with pytest.raises(SystemExit):
        main(["--from", str(tmp_path), "--out", str(tmp_path / "home")])


def test_a_row_without_time_is_named_with_the_reason(tmp_path: Path) -> None:
    assert main(["--dry", "--rows", "G3,G5", "--budget", "0", "--out", str(tmp_path)]) == 1
    page = (tmp_path / PAGE).read_text()
    assert page.count("wanted; run it with --rows") == 4, "two rows, in the summary and below"


def test_a_missed_target_is_printed_as_missed_and_the_exit_code_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(bench: Bench) -> Iterator[RowPlan]:
        yield RowPlan("G1", lambda: _result(Verdict("at least 7x", "2.00x", False)))

    monkeypatch.setattr(bench_gpu, "GROUPS", [Group(("G1",), 0, slow)])
    assert main(["--dry", "--rows", "G1", "--out", str(tmp_path)]) == 1
    assert (tmp_path / PAGE).read_text().count("| at least 7x | 2.00x | **missed** |") == 2


def test_a_cell_is_median_least_and_most() -> None:
    lines = [Line("ours", {"images/s": (4.0, 2.0, 1.0)}), Line("theirs", {"images/s": (2.0, 0.5, 0.125)})]
    text = bench_gpu.section("G1", Result("a title", lines, ratio_of="images/s"))
    assert "| ours | 2 (1 - 4) | 1 |" in text
    assert "| theirs | 0.5 (0.125 - 2) | 4x (2 - 8) |" in text
    assert "Repeats: 3." in text


def _painted(bench: Bench) -> Iterator[RowPlan]:
    for row in ROWS:
        yield RowPlan(row, lambda: _result(Verdict("a target", "1", None)))


def _result(verdict: Verdict) -> Result:
    return Result("a title", [Line("ours", {"images/s": (1.0,)})], verdicts=[verdict])


def _bench(clock: Callable[[], float]) -> Bench:
    return Bench(
        dry=False,
        device="cpu",
        dtype=torch.float32,
        worlds=TINY_WORLDS,
        works=TINY_WORKS,
        extras=(),
        deadline=math.inf,
        import_s=0.0,
        clock=clock,
        matmul_tflops=1.0,
    )
