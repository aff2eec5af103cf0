"""How the sandbox is made again: its trainings descend as one, its parts are built in two lines."""

import sys

import numpy as np
import pytest

from sandbox import build, captions, world
from sandbox.descent import Descent, one_cycle


def test_a_step_moves_by_the_gradient_at_the_rate_of_its_number_and_tells_the_smoothed_loss():
    import torch

    weight = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    told: list[tuple[int, float]] = []
    descent = Descent(
        torch.optim.SGD([weight], lr=99.0), lambda step: 0.1 * (step + 1), lambda *line: told.append(line), clip=1.0
    )
    descent.step(weight.square().sum() / 2)  # the gradient (3, 4) is clipped to (0.6, 0.8)
    torch.testing.assert_close(weight.data, torch.tensor([2.94, 3.92]))
    descent.clip = None
    descent.step(weight.square().sum() / 2)
    torch.testing.assert_close(weight.data, torch.tensor([2.94, 3.92]) * 0.8)
    for _ in range(48):
        descent.step(weight.sum() * 0 + 1)
    first, second = 12.5, 2.94**2 / 2 + 3.92**2 / 2
    smooth = 1 + 0.98**48 * (0.98 * first + 0.02 * second - 1)
    assert told == [(50, pytest.approx(smooth, rel=1e-5))]


def test_the_rate_warms_up_and_falls_to_zero():
    factors = [one_cycle(step, 1000, warmup=100) for step in range(1000)]
    assert factors[0] == 0.01
    assert max(factors) == factors[99] == factors[100] == 1
    assert factors[100:] == sorted(factors[100:], reverse=True)
    assert factors[-1] < 1e-4


def test_every_part_is_built_once_and_after_what_it_needs():
    assert len(build.PARTS) == len(set(build.PARTS)) == sum(map(len, build.LINES))
    assert any(line[:3] == ("vae", "unet", "controlnet") for line in build.LINES)


def test_a_generator_is_trained_to_the_same_weights_from_the_same_seed(tmp_path):
    import torch

    from sandbox.autoencoder import AutoencoderSpec, encode, train_autoencoder
    from sandbox.generator import GeneratorSpec, draw, load_generator, save_generator, train_generator

    rows = list(captions.pool_rows(12))
    images = np.stack([world.render(row.scene) for row in rows])
    for name in ("first", "second"):
        vae = train_autoencoder(images, AutoencoderSpec(num_steps=2, batch=4), lambda step, loss: None)
        latents = encode(vae, images)
        assert latents.dtype == torch.float32
        torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(4), atol=1e-3, rtol=0)  # whitened
        torch.testing.assert_close(latents.permute(1, 0, 2, 3).reshape(4, -1).cov(), torch.eye(4), atol=1e-2, rtol=0)
        spec = GeneratorSpec(num_steps=2, batch=4)
        unet, text_encoder = train_generator(latents, [row.caption for row in rows], spec, lambda step, loss: None)
        save_generator(vae, unet, text_encoder, tmp_path / name)
    files = sorted(path.relative_to(tmp_path / "first") for path in (tmp_path / "first").rglob("*.safetensors"))
    assert {path.parent.name for path in files} >= {"vae", "unet", "text_encoder"}
    for file in files:
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()
    assert draw(load_generator(tmp_path / "first"), ["two"], [3], num_steps=2).shape == (1, 64, 64, 3)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--steps", "3"], "--steps 3: expected a number above 0 together with --only and one of vae"),
        (["--only", "vae", "unet", "--steps", "3"], "--steps 3: expected a number above 0"),
        (["--only", "data", "--steps", "3"], "--steps 3: expected a number above 0"),
        (["--only", "vea"], "invalid choice: 'vea'"),
    ],
)
def test_words_that_do_not_fit_are_refused_before_anything_is_built(words, said, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["build", *words])
    with pytest.raises(SystemExit) as end:
        build.main()
    assert end.value.code == 2
    assert said in capsys.readouterr().err


def test_a_build_of_all_parts_ends_both_lines_and_has_the_status_of_the_one_that_failed(tmp_path, monkeypatch, capfd):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(build, "LINES", (("vae",), ("judge",)))
    monkeypatch.setattr(sys, "argv", ["build", "--models", str(tmp_path / "file" / "models")])
    with pytest.raises(SystemExit) as end:
        build.main()
    assert end.value.code == 2
    assert capfd.readouterr().err.count("Not a directory") == 2
