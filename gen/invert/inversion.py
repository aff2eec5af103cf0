"""The model of a style inversion: a frozen generator, and the rows of the new words, which alone are trained.

In: a checked model folder, an `InvertSpec`, the new words. Out: `Inversion`, a module whose only parameters, state and
gradients are rows [words, vectors, width], one tensor for each text encoder. On disk: reads the generator.

A hook puts the rows in the place of what an encoder's embedding says of the new tokens, so every other row of the
embedding stays as it is, bit by bit. The frozen parts are shared by all models of one generator and are no part of a
checkpoint.

A CLIP whose config says `eos_token_id: 2` (SDXL's second encoder, FLUX's) takes its pooled vector at the highest id of
a text, so at the new token and not at the text's end, here as in diffusers: what follows the token is not in it.

Shapes: N pictures, C channels, H height and W width of latents, T text tokens, D width of an encoder, K words, V
vectors of a word.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from gen.invert.noise import Noise, noise_of
from gen.invert.spec import InvertSpec
from gen.model.folder import ModelError, ModelFolder
from gen.model.style_token import ENCODERS, TOKENIZERS, spelled
from gen.sampler.latents import for_decoder, for_denoiser
from gen.sampler.pipeline import draw_noise, load_pipeline
from gen.sampler.safety import flag_images
from gen.sampler.spec import SamplerSpec
from gen.sampler.style import add_words
from gen.sampler.texts import encode_texts

if TYPE_CHECKING:
    from numpy.typing import NDArray

VAE_PICTURES = 8  # encoded at a time
MIB = 1 << 20


class Generator:
    """The frozen parts of a pipeline on a device. Owns their weights, and latents of pictures that never change."""

    def __init__(
        self, folder: ModelFolder, spec: InvertSpec, words: Sequence[str], size_px: int, device: torch.device
    ) -> None:
        """Raises ModelError for a model that does not load, and for a picture size or words that it does not take."""
        self.spec, self.family, self.device, self.size_px, self.words = spec, folder.family, device, size_px, words
        asked = SamplerSpec(model=spec.model, revision=spec.revision, variant=spec.variant, dtype=spec.dtype)
        pipeline = load_pipeline(folder, asked, None)
        self.pipeline = pipeline
        self.denoiser = pipeline.unet if self.family in ("sd", "sdxl") else pipeline.transformer
        for part in pipeline.components.values():
            if isinstance(part, nn.Module):
                part.requires_grad_(False).eval()
        pipeline.to(device)
        if self.family == "sdxl" and spec.dtype == "fp16" and pipeline.vae.config.force_upcast:
            pipeline.vae.float()
        if spec.checkpointing:
            self.denoiser.enable_gradient_checkpointing()
        unit = pipeline.vae_scale_factor * (1 if self.family in ("sd", "sdxl") else 2)
        if size_px % unit:
            raise ModelError(f"data.size_px: found {size_px}, family {self.family} expects a multiple of {unit}")
        side = size_px // pipeline.vae_scale_factor
        patch = 2 if self.family == "flux" else getattr(self.denoiser.config, "patch_size", 1) or 1
        self.noise: Noise = noise_of(pipeline.scheduler, self.family, (side // patch) ** 2).to(device)
        self.encoders: tuple[str, ...] = ENCODERS[self.family]
        self.initial = {encoder: self._initial(encoder) for encoder in self.encoders}  # D
        self._rows: Mapping[str, Tensor] = {}
        for encoder in self.encoders:
            network = getattr(pipeline, encoder)
            first = add_words(getattr(pipeline, TOKENIZERS[encoder]), network, words, spec.vectors)
            network.requires_grad_(False)
            network.get_input_embeddings().register_forward_hook(partial(self._with_rows, encoder, first))
        self._latents: dict[bytes, tuple[Tensor, Tensor]] = {}  # hash of the pixels -> mean, deviation
        self._room = spec.cache_mb * MIB

    def _initial(self, encoder: str) -> Tensor:
        """The mean of the rows of the words that it starts from."""
        tokenizer = getattr(self.pipeline, TOKENIZERS[encoder])
        ids = tokenizer(self.spec.initial, add_special_tokens=False)["input_ids"]
        if not ids:
            raise ModelError(f"invert.initial: found no token in {self.spec.initial!r}, expected a word")
        weight: Tensor = getattr(self.pipeline, encoder).get_input_embeddings().weight
        return weight[torch.tensor(ids, device=weight.device)].float().mean(0)

    def _with_rows(
        self, encoder: str, first: int, module: nn.Module, given: tuple[Tensor, ...], found: Tensor
    ) -> Tensor:
        """The embedding's answer with the rows in force at the new tokens."""
        if encoder not in self._rows:
            return found
        rows_KVD, place_NT = self._rows[encoder], given[0] - first
        own_NTD = rows_KVD.flatten(0, 1)[place_NT.clamp(min=0)].to(found.dtype)
        return torch.where((place_NT >= 0).unsqueeze(-1), own_NTD, found)

    @contextmanager
    def using(self, rows: Mapping[str, Tensor]) -> Iterator[None]:
        """Inside, the new words mean these rows (encoder -> KVD)."""
        before, self._rows = self._rows, rows
        try:
            yield
        finally:
            self._rows = before

    def check_texts(self, texts: Sequence[str]) -> None:
        """Raises ValueError for a text that an encoder would cut, whose token might have no effect."""
        for encoder in self.encoders:
            tokenizer = getattr(self.pipeline, TOKENIZERS[encoder])
            for text in texts:
                num = len(tokenizer(spelled(tokenizer, [text])[0], verbose=False)["input_ids"])
                if num > tokenizer.model_max_length:
                    raise ValueError(
                        f"invert.templates: found {num} tokens in {text[:120]!r}, of which {self.spec.vectors} are of "
                        f"the new word, expected at most {tokenizer.model_max_length}; shorten the template or the "
                        "meanings, or lower invert.vectors"
                    )

    def encode(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """As the sampler encodes them: prompt_embeds NTD and, where the family has them, pooled_prompt_embeds ND."""
        distinct = list(dict.fromkeys(texts))
        place = torch.tensor([distinct.index(text) for text in texts], device=self.device)
        told = encode_texts(self.pipeline, self.family, distinct, self.device, None)
        return {name: tensor[place] for name, tensor in told.items()}

    @torch.no_grad()
    def latents(self, images_NHWC: NDArray[np.uint8], seeds: Sequence[int], is_still: bool) -> Tensor:
        """Latents as the denoiser takes them, NCHW in fp32; each drawn with its own seed from what the encoder says.

        `is_still`: these pictures come again as they are, so what the encoder says is kept. It is found by their
        pixels: of a picture that is not quite square another row may be cut off the next time.
        """
        hashes = [hashlib.blake2b(one.tobytes(), digest_size=16).digest() for one in images_NHWC]
        todo = [place for place, one in enumerate(hashes) if not (is_still and one in self._latents)]
        said: dict[int, tuple[Tensor, Tensor]] = {}
        vae = self.pipeline.vae
        for begin in range(0, len(todo), VAE_PICTURES):
            part = todo[begin : begin + VAE_PICTURES]
            pixels = torch.from_numpy(images_NHWC[part]).to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1
            told = vae.encode(pixels.to(next(vae.parameters()).dtype)).latent_dist
            for place, mean, deviation in zip(part, told.mean.float(), told.std.float(), strict=True):
                said[place] = mean, deviation
                size = 2 * mean.nbytes
                if is_still and self._room >= size:
                    self._room -= size
                    self._latents[hashes[place]] = mean.cpu(), deviation.cpu()
        both = [said[place] if place in said else self._latents[one] for place, one in enumerate(hashes)]
        mean = torch.stack([one.to(self.device) for one, _ in both])
        deviation = torch.stack([one.to(self.device) for _, one in both])
        return for_denoiser(mean + deviation * self.gaussian(seeds, mean.shape[1:]), vae.config, self.family)

    def gaussian(self, seeds: Sequence[int], shape: Sequence[int]) -> Tensor:
        """Noise of each picture from a generator of its own, so that it does not depend on the batch."""
        rows = [torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return torch.stack(rows).to(self.device)

    def predict(self, noisy_NCHW: Tensor, index_N: Tensor, told: Mapping[str, Tensor]) -> Tensor:
        """What the denoiser answers, NCHW in fp32."""
        dtype = next(self.denoiser.parameters()).dtype
        noisy, timestep = noisy_NCHW.to(dtype), self.noise.timestep_T[index_N]
        embeds = told["prompt_embeds"].to(dtype)
        if self.family == "sd":
            return self.denoiser(noisy, timestep, encoder_hidden_states=embeds).sample.float()
        pooled, pipeline = told["pooled_prompt_embeds"].to(dtype), self.pipeline
        if self.family == "sdxl":
            square = (self.size_px, self.size_px)
            width = pipeline.text_encoder_2.config.projection_dim
            ids = pipeline._get_add_time_ids(square, (0, 0), square, dtype, width).to(self.device)
            added = {"text_embeds": pooled, "time_ids": ids.repeat(len(noisy), 1)}
            answer = self.denoiser(noisy, timestep, encoder_hidden_states=embeds, added_cond_kwargs=added)
            return answer.sample.float()
        if self.family == "sd3":
            return self.denoiser(
                hidden_states=noisy, timestep=timestep, encoder_hidden_states=embeds, pooled_projections=pooled
            ).sample.float()
        return self._predict_flux(noisy, timestep, embeds, pooled)

    def _predict_flux(self, noisy_NCHW: Tensor, timestep_N: Tensor, embeds: Tensor, pooled: Tensor) -> Tensor:
        """FLUX sees patches of 2 x 2, and is told the time in 0..1 and, if it was distilled, its guidance."""
        told = self.spec.guidance if self.spec.loss_guidance is None else self.spec.loss_guidance
        pipeline, (num, channels, high, wide) = self.pipeline, noisy_NCHW.shape
        dtype, is_told = noisy_NCHW.dtype, self.denoiser.config.guidance_embeds
        answer = self.denoiser(
            hidden_states=pipeline._pack_latents(noisy_NCHW, num, channels, high, wide),
            timestep=(timestep_N / 1000).to(dtype),
            guidance=torch.full((num,), told, device=self.device) if is_told else None,
            pooled_projections=pooled,
            encoder_hidden_states=embeds,
            txt_ids=torch.zeros(embeds.shape[1], 3, device=self.device, dtype=dtype),
            img_ids=pipeline._prepare_latent_image_ids(num, high // 2, wide // 2, self.device, dtype),
        ).sample
        factor = pipeline.vae_scale_factor
        unpacked: Tensor = pipeline._unpack_latents(answer, high * factor, wide * factor, factor)
        return unpacked.float()

    @torch.no_grad()
    def draw(self, texts: Sequence[str], seeds: Sequence[int]) -> NDArray[np.uint8]:
        """Pictures NHWC of texts with the rows in force, by the model's own scheduler."""
        spec, pipeline = self.spec, self.pipeline
        given: dict[str, Any] = self.encode(texts)
        if self.family != "flux" and spec.guidance > 1:
            given |= {f"negative_{name}": tensor for name, tensor in self.encode([""] * len(texts)).items()}
            if self.family == "sdxl" and pipeline.config.force_zeros_for_empty_prompt:
                given |= {name: torch.zeros_like(one) for name, one in given.items() if name.startswith("negative_")}
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        dtype = given["prompt_embeds"].dtype
        noise = draw_noise(pipeline, self.family, self.size_px, dtype, generators).to(self.device)
        drawn = pipeline(
            **given,
            latents=noise,
            height=self.size_px,
            width=self.size_px,
            num_inference_steps=spec.steps,
            guidance_scale=spec.guidance,
            generator=generators,
            output_type="latent",
        ).images
        if self.family == "flux":  # packed 2x2 patches
            drawn = pipeline._unpack_latents(drawn, self.size_px, self.size_px, pipeline.vae_scale_factor)
        unit_NCHW = self._decode(drawn).float().div(2).add(0.5).nan_to_num(nan=0.0).clamp(0, 1)
        pixels: NDArray[np.uint8] = unit_NCHW.mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        return pixels

    def _decode(self, latents_NCHW: Tensor) -> Tensor:
        """Images around [-1, 1], NCHW, not yet clipped; black where a safety checker objects. In the VAE's own type,
        which may be another than the latents': the stock pipeline casts them to no VAE that is fp32 already."""
        vae, checker = self.pipeline.vae, getattr(self.pipeline, "safety_checker", None)
        scaled = for_decoder(latents_NCHW, vae.config, self.family).to(next(vae.parameters()).dtype)
        image_NCHW = torch.cat([vae.decode(part, return_dict=False)[0] for part in scaled.split(VAE_PICTURES)])
        if checker is not None:
            image_NCHW[flag_images(checker, self.pipeline.feature_extractor, image_NCHW)] = -1
        return image_NCHW


class Inversion(nn.Module):
    """The rows of the new words over a frozen generator, which is no part of its state."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self._shared = (generator,)  # in a tuple, so that its modules are not taken for parts of this one
        num, vectors = len(generator.words), generator.spec.vectors
        self.rows = nn.ParameterDict(
            {name: row.repeat(num, vectors, 1).contiguous() for name, row in generator.initial.items()}
        )

    @property
    def generator(self) -> Generator:
        """The frozen parts."""
        return self._shared[0]

    def no_weight_decay(self) -> set[str]:
        """All of it: rows shall move only where pictures want them (read by timm's optimisers)."""
        return {name for name, _ in self.named_parameters()}

    def initial(self) -> dict[str, Tensor]:
        """Encoder -> the rows before the first step."""
        return {name: self.generator.initial[name].expand_as(rows) for name, rows in self.rows.items()}

    def forward(self, noisy_NCHW: Tensor, index_N: Tensor, texts: Sequence[str]) -> Tensor:
        """What the generator predicts, NCHW."""
        generator = self.generator
        with generator.using(dict(self.rows.items())):
            told = generator.encode(texts)
        return generator.predict(noisy_NCHW, index_N, told)
