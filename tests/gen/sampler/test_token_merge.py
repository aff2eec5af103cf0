"""Token merging: fewer tokens in the attention that costs most, in a way that depends on the picture alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gen.model.folder import ModelError
from gen.sampler.sampler import Request, Sampler
from gen.sampler.spec import SamplerSpec, sampler_json
from gen.sampler.token_merge import pairing
from shards.disk.home import home
from tests.support.tiny_pipelines import tiny_pipeline

SANDBOX = home() / "sandbox" / "models" / "generator"
REQUESTS = [Request(f"a number {number}", "", 100 + number) for number in range(3)]


def load(model: Path, **fields: Any) -> Sampler:
    return Sampler.load(SamplerSpec(model=str(model), size_px=32, steps=3, device="cpu", **fields))


def picture(side: int, rows: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, side * side, 8, generator=torch.Generator().manual_seed(seed))


@given(side=st.integers(2, 9), share=st.floats(0.05, 0.75), seed=st.integers(0, 1000))
def test_every_token_gets_the_answer_of_the_token_that_it_went_into(side: int, share: float, seed: int) -> None:
    tokens = picture(side, seed=seed)
    count = int(side * side * share)
    merge, spread = pairing(tokens, count)
    merged = merge(tokens)
    assert merged.shape[1] == side * side - min(count, side * side - ((side + 1) // 2) ** 2)
    names = torch.arange(merged.shape[1]).expand(2, -1)[:, :, None].float()
    went = spread(names)[:, :, 0].long()  # token -> the merged token that answers for it
    for row in range(2):
        for place in range(merged.shape[1]):
            members = tokens[row][went[row] == place]
            assert len(members) >= 1
            assert torch.allclose(members.mean(dim=0), merged[row, place], atol=1e-5)


def test_the_most_alike_tokens_go_and_the_corners_of_2x2_stay() -> None:
    tokens = torch.eye(16)[None]
    tokens[0, 5] = tokens[0, 0] * 3  # the same direction as the corner of its square
    _, spread = pairing(tokens, 1)
    answers = spread(torch.arange(15.0)[None, :, None])[0, :, 0]
    assert answers[5] == answers[0]
    assert len(answers.unique()) == 15


def test_tokens_that_are_all_alike_are_attended_as_without_merging() -> None:
    tokens = torch.ones(1, 16, 8)
    merge, spread = pairing(tokens, 12)
    assert torch.equal(spread(merge(tokens)), tokens)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_means_in_half_precision_differ_by_rounding_only_and_the_type_stays(dtype: torch.dtype) -> None:
    """A sum is rounded once, its quotient once more."""
    tokens = picture(8).to(dtype)
    merge, spread = pairing(tokens, 40)
    merged, exact = merge(tokens), merge(tokens.double())
    assert (merged.dtype, spread(merged).dtype) == (dtype, dtype)
    assert float((merged - exact).abs().max() / exact.abs().max()) < 2 * torch.finfo(dtype).eps


def test_attention_of_the_finest_level_sees_fewer_tokens_and_no_other_does() -> None:
    sampler = load(SANDBOX, merge_tokens=0.5)
    unet = sampler._pipeline.unet
    seen: dict[str, set[int]] = {"finest": set(), "middle": set()}
    for name, block in (("finest", unet.down_blocks[1]), ("middle", unet.mid_block)):
        inner = block.attentions[0].transformer_blocks[0].attn1.to_q
        inner.register_forward_hook(lambda _module, inputs, _made, name=name: seen[name].add(inputs[0].shape[1]))
    sampler.latents(REQUESTS)
    (middle,) = seen["middle"]
    assert seen["finest"] == {middle - middle // 2}


def test_it_makes_other_images_that_depend_on_no_neighbour_and_says_so_in_their_rows() -> None:
    merging, whole = load(SANDBOX, merge_tokens=0.5), load(SANDBOX)
    together = merging.sample(REQUESTS).image_NHWC
    assert not np.array_equal(together, whole.sample(REQUESTS).image_NHWC)
    for place, request in enumerate(REQUESTS):
        alone = merging.sample([request]).image_NHWC[0]
        assert np.abs(alone.astype(int) - together[place]).max() <= 2
    assert '"merge_tokens": 0.5' in sampler_json(merging.spec)
    assert "merge_tokens" not in sampler_json(whole.spec)


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_models_without_a_u_net_are_refused(tmp_path: Path, family: str) -> None:
    model = tiny_pipeline(family, tmp_path / family)
    with pytest.raises(ModelError, match=f"family {family} has no U-Net; set sampler.merge_tokens to null"):
        load(model, merge_tokens=0.5)
