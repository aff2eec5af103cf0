"""The GPU benchmark runs: every row with tiny networks on the CPU, and what is written is what was found.

No speed is judged here. The networks of the real run are counted without their weights.
"""

import json
import math
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from docs.bench import gpu as bench_gpu
from docs.bench import page
from docs.bench.device import Bench, OutOfTime, time_limit
from docs.bench.gpu import HOME, NUMBERS, ROWS, Row, main
from docs.bench.gpu_images import SD15, check_spreads, networks, stock_call, stock_pipeline, teraflop
from docs.bench.gpu_training import teraflop as teraflop_of_training
from docs.bench.measure import Line, Result, Verdict

# numpy's, in the pipelines of diffusers
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")

CPU = torch.device("cpu")
EXACT = {"sd15", "turbo", "sdxl", "flux"}


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What `--dry` prints in a process of its own, the packages that it loads last, and the folder it wrote to."""
    out = tmp_path_factory.mktemp("docs")
    shutil.copy(HOME / page.PAGE, out)
    program = f"""
import sys
from docs.bench.gpu import main
code = main(["--dry", "--budget", "500", "--out", {str(out)!r}])
print(*{{name.partition(".")[0] for name in sys.modules}})
sys.exit(code)
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=HOME.parent, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout, out


@pytest.mark.parametrize("row", ROWS)
def test_every_row_runs_in_miniature_with_finite_figures(whole_run: tuple[str, Path], row: str) -> None:
    found = json.loads((whole_run[1] / NUMBERS).read_text())[row]
    samples = [one for line in found["lines"] for some in line["figures"].values() for one in some]
    assert samples
    assert all(math.isfinite(one) and one >= 0 for one in samples)
    judged = {verdict["met"] for verdict in found["verdicts"]}
    assert judged == ({None, True} if row in EXACT else {None}), "in miniature only exactness is judged, and holds"


def test_the_page_holds_what_was_printed_and_names_no_machine(whole_run: tuple[str, Path]) -> None:
    printed, out = whole_run
    written, kept = (out / page.PAGE).read_text(), (out / NUMBERS).read_text()
    sections = re.findall(r"<!-- ([\w-]+): written by `make bench-gpu` -->\n(.*?)\n<!-- /\1 -->", written, re.DOTALL)
    assert [row for row, _ in sections] == list(ROWS)
    assert all(text in printed for _, text in sections)
    assert written.count("tiny networks on the CPU, ") == len(ROWS)
    for name in (str(HOME.parent), str(Path.home()) + "/", str(out)):
        assert name not in printed + written + kept


def test_a_run_loads_neither_ray_nor_what_streams_searches_or_serves(whole_run: tuple[str, Path]) -> None:
    loaded = set(whole_run[0].splitlines()[-1].split())
    assert {"torch", "pyarrow", "timm"} <= loaded
    assert not loaded & {"ray", "faiss", "webdataset", "open_clip", "openai", "cv2"}


@pytest.mark.parametrize(
    ("family", "parameters"),  # published sizes of the weights
    [
        ("sd", {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480}),
        ("sdxl", {"unet": 2_567_463_684, "vae": 83_653_863, "text_encoder_2": 694_659_840}),
        ("flux", {"transformer": 11_891_178_560, "vae": 83_819_683, "text_encoder_2": 4_762_310_656}),
    ],
)
def test_the_architectures_are_the_published_ones(family: str, parameters: dict[str, int]) -> None:
    with torch.device("meta"):
        parts = networks(family, {"bos_token_id": 512, "eos_token_id": 513})  # type: ignore[arg-type]
    found = {name: sum(one.numel() for one in part.parameters()) for name, part in parts.items()}
    assert parameters.items() <= found.items()


def test_counted_arithmetic_is_that_of_the_published_network_and_of_every_step() -> None:
    """ResNet-50: 4.09 G multiply-adds forward, and twice that back."""
    assert 1e3 * teraflop_of_training("resnet50", 224) == pytest.approx(3 * 2 * 4.089, rel=1e-3)
    work = replace(SD15.small(), steps=5)
    stock = stock_pipeline(judging(), work)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        stock_call(stock, work, ["picture number 0"], "pt")
    assert teraflop(stock, work) == pytest.approx(counter.get_total_flops() / 1e12)
    assert teraflop(stock, replace(work, guidance=0.0)) < 0.8 * teraflop(stock, work), "guidance is a second pass"


def test_a_network_that_yields_nan_or_nothing_is_not_measured() -> None:
    work = SD15.small()
    stock = stock_pipeline(judging(), work)
    assert check_spreads(stock, work).startswith("text 1.0")
    assert stock_call(stock, work, ["a", "b"], "pt").shape == (2, 3, 64, 64)
    for broken in (math.nan, 0.0):
        stock.unet.conv_out.weight.data.fill_(broken)
        stock.unet.conv_out.bias.data.fill_(broken)
        with pytest.raises(ValueError, match=r"SD1\.5, denoiser: found a spread of .* another scale"):
            check_spreads(stock, work)


def test_sides_take_turns_until_the_budget_is_spent() -> None:
    time_s, turns = [0.0], []

    def side(name: str, seconds: float) -> Callable[[Path], int]:
        def turn(folder: Path) -> int:
            assert list(folder.iterdir()) == []
            turns.append(name)
            time_s[0] += seconds
            return 6

        return turn

    bench = replace(judging(lambda: time_s[0]), dry=False)
    sides = {"a": side("a", 1.0), "b": side("b", 3.0)}
    assert {name: len(some) for name, some in bench.rates(sides, 1000).items()} == {"a": 5, "b": 5}
    assert "".join(turns) == "ab" * 5
    assert bench.rates(sides, 9) == {"a": (6.0, 6.0), "b": (2.0, 2.0)}
    assert bench.rates(sides, 0) == {"a": (6.0,), "b": (2.0,)}, "once at least"


def test_the_time_limit_ends_what_would_go_on_and_nothing_keeps_it_to_itself() -> None:
    caught = []

    def library() -> None:
        while True:
            try:
                time.sleep(30)
            except Exception as error:
                caught.append(error)

    begun = time.monotonic()
    with time_limit(0.2), pytest.raises(OutOfTime):
        library()
    assert caught == []
    assert time.monotonic() - begun < 20


def test_rows_that_fail_or_find_no_time_are_named_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(bench: Bench) -> Result:
        raise RuntimeError("out of memory\nand more")

    def endless(bench: Bench) -> Result:
        raise OutOfTime

    rows = {"sd15": Row(failing, 0, True), "turbo": Row(endless, 0, True), "sdxl": Row(a_result, 0, True)}
    rows["flux"] = Row(a_result, 1e6, False)
    monkeypatch.setattr(bench_gpu, "ROWS", rows)
    shutil.copy(HOME / page.PAGE, tmp_path)
    before = (tmp_path / page.PAGE).read_text()
    assert main(["--dry", "--out", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "### sd15\n\nNot measured: RuntimeError: out of memory; run it with --rows sd15." in said
    assert "### turbo\n\nNot measured: the time was up; run it with --rows turbo." in said
    assert "wanted; run it with --rows flux." in said
    assert list(json.loads((tmp_path / NUMBERS).read_text())) == ["sdxl"]
    written = (tmp_path / page.PAGE).read_text()
    assert written.partition("<!-- sdxl: ")[0] == before.partition("<!-- sdxl: ")[0], "what had figures keeps them"


def test_the_rows_that_decide_are_the_first_call_and_rest_is_the_second(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, rest = bench_gpu.chosen_rows(None), bench_gpu.chosen_rows("rest")
    assert sorted([*first, *rest]) == sorted(ROWS)
    assert first == ["sd15", "resnet50", "turbo", "sdxl"]
    monkeypatch.setattr(bench_gpu, "ROWS", {name: Row(a_result, 0, True) for name in ROWS})
    assert main(["--dry", "--rows", "sdxl,sd15"]) == 0
    assert re.findall(r"^### ([\w-]+)", capsys.readouterr().out, re.MULTILINE) == ["sdxl", "sd15"]
    with pytest.raises(SystemExit):
        main(["--dry", "--rows", "sd15,G1"])
    assert f"found G1, expected rest or some of {','.join(ROWS)}" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_what_can_be_run(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--rows", "sd15"])
    assert "torch sees no GPU here; run with --dry" in capsys.readouterr().err


def a_result(bench: Bench) -> Result:
    line = Line("ours", {"images/s": (1.0,)})
    return Result("a title", "a method", "an anchor", "a guess", [line], verdicts=[Verdict("a target", "1", None)])


def judging(clock: Callable[[], float] = time.perf_counter) -> Bench:
    return Bench(dry=True, device=CPU, deadline=math.inf, matmul_tflops=1.0, clock=clock)
