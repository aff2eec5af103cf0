"""A vision-language model in this process, which answers questions that have a fixed set of answers (gen.llm.choice).

In: an `LlmSpec` with a folder, or with a hub id and a 40-hex commit that is downloaded already (this code never
downloads). Out: answers. On disk (read only): config.json, processor, tokenizer, *.safetensors.

The model reads images and question once. The answer is the word whose beginnings are together the likeliest as the next
token, P(yes) against P(no): nothing is drawn, no text is read, and every answer is one of the words. Questions are
asked one by one, since in a batch the last bits of the logits depend on the others. Nothing is imported from the
folder, and no pickle is opened.
"""

import asyncio
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gen.llm.call import BadAnswer, Call, CallFailed, LlmError, Said
from gen.llm.choice import choice_of
from gen.llm.image import rgb_image
from gen.llm.local import device_name, language_folder, pinned
from gen.llm.spec import LlmSpec
from shards.disk.safe_text import one_line

if TYPE_CHECKING:
    from torch import Tensor


def vision_identity(spec: LlmSpec, folder: Path) -> Mapping[str, Any]:
    """The weights; nothing else of the spec counts for the next token."""
    return {"provider": "transformers", "model": pinned(spec, folder), "answer": "next token"}


def _load(folder: Path) -> tuple[Any, Any]:
    """Processor and model of the folder. Raises LlmError if transformers cannot load them."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    try:
        return (
            AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False),
            AutoModelForImageTextToText.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, use_safetensors=True, dtype="auto"
            ),
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = one_line(str(error), 200)
        raise LlmError(
            f"{folder}: found no vision-language model that transformers can load ({reason}); use a model of the kind "
            "image-text-to-text, or download it again"
        ) from None


class LocalVisionModel:
    """A loaded model, and the thread in which it answers; a `LanguageModel`. Raises LlmError."""

    def __init__(self, spec: LlmSpec) -> None:
        folder = language_folder(spec)
        self._spec = spec
        self._identity = vision_identity(spec, folder)
        self._processor, self._model = _load(folder)
        self._tokenizer: Any = getattr(self._processor, "tokenizer", None)
        if self._tokenizer is None or not getattr(self._processor, "chat_template", None):
            raise LlmError(
                f"{folder}: found a processor without a tokenizer and a chat template, expected both; use another model"
            )
        self._model.to(device_name(spec)).eval()
        self._firsts: dict[tuple[str, ...], list[list[int]]] = {}  # words -> for each the tokens that begin it
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="local-vision-model")

    @property
    def identity(self) -> Mapping[str, Any]:
        """`vision_identity` of the spec."""
        return self._identity

    @property
    def place(self) -> str:
        """The words "this process"."""
        return "this process"

    @property
    def num_parallel(self) -> int:
        """One: questions are asked one by one."""
        return 1

    async def answer(self, call: Call) -> Said:
        """One of the words that the call's schema allows. Raises BadAnswer, CallFailed or LlmError."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._chosen, call)

    async def close(self) -> None:
        """End the thread after the current answer."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _chosen(self, call: Call) -> Said:
        import torch

        choice = choice_of(call.schema)
        if choice is None:
            raise LlmError(
                f"llm.model {self._spec.model}: found a question with a free answer, expected one with a fixed set of "
                "answers, as a vision-language model in this process has them; use a server (llm.provider=openai)"
            )
        firsts = self._first_tokens(choice.words)
        inputs = self._inputs(call)
        num_tokens = int(inputs["input_ids"].shape[-1])
        most = getattr(self._model.config.get_text_config(), "max_position_embeddings", None)
        if most is not None and num_tokens > most:
            raise CallFailed("prompt_too_long", f"{num_tokens} tokens of {most}", again=False)
        with torch.inference_mode():
            logits_V: Tensor = self._model(**inputs).logits[0, -1].detach().to("cpu", torch.float64)
        if not torch.isfinite(logits_V).all():
            raise BadAnswer("not_finite", "a logit is not finite")
        scores = [float(logits_V[tokens].logsumexp(0)) for tokens in firsts]
        word = choice.words[max(range(len(scores)), key=scores.__getitem__)]
        return Said(json.dumps({choice.name: word}), tokens_in=num_tokens, tokens_out=1)

    def _inputs(self, call: Call) -> dict[str, Any]:
        """What the model reads: images, task and question as one message of a chat, on the model's device."""
        from jinja2 import TemplateError

        text = f"{call.task}\n\n{call.user}"
        try:
            parts = [{"type": "image", "image": rgb_image(image)} for image in call.images]
            found = self._processor.apply_chat_template(
                [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            )
        except (TemplateError, ValueError, IndexError) as error:  # such as a question with the word for an image
            raise CallFailed("question_not_taken", str(error), again=False) from None
        kind = self._model.dtype
        return {
            name: tensor.to(self._model.device, kind) if tensor.is_floating_point() else tensor.to(self._model.device)
            for name, tensor in found.items()
        }

    def _first_tokens(self, words: tuple[str, ...]) -> list[list[int]]:
        """For each word the tokens that begin it, in small and capital letters; one that begins two words counts for
        none. Raises LlmError if a word has none left."""
        if words not in self._firsts:
            found = [
                {
                    self._tokenizer(form, add_special_tokens=False)["input_ids"][0]
                    for spelt in (word, word.capitalize(), word.upper())
                    for form in (spelt, f" {spelt}")
                }
                for word in words
            ]
            unknown = self._tokenizer.unk_token_id
            own = [sorted(one - {unknown}.union(*(other for other in found if other is not one))) for one in found]
            if not all(own):
                raise LlmError(
                    f"llm.model {self._spec.model}: found no tokens that tell {' from '.join(words)}, expected a "
                    "tokenizer that begins them differently; use another model"
                )
            self._firsts[words] = own
        return self._firsts[words]
