"""A language model in this process: a causal transformers model, one answer at a time.

In: an `LlmSpec` with a folder, or with a hub id and a 40-hex commit that is downloaded already (this code never
downloads). Out: answers. On disk (read only): config.json, tokenizer, *.safetensors.

Answers are made one by one. In a batch, padding and the shapes of matrices change the last bits of the logits, and
sometimes a token, so an answer would depend on the other questions of its batch. Tokens are drawn with a random
generator of the call's own, so an answer depends on nothing else in the process. Nothing is imported from the folder,
and no pickle is opened.
"""

import asyncio
import random
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gen.llm.call import BadAnswer, Call, CallFailed, LlmError, Said
from gen.llm.spec import LlmSpec
from gen.model.folder import flat_digest, flat_model
from shards.disk.safe_text import one_line

if TYPE_CHECKING:
    from torch import Tensor


def language_folder(spec: LlmSpec) -> Path:
    """The checked folder of the model. Raises ModelError."""
    return flat_model("llm.model", spec.model or "", spec.revision, "config.json", "model.safetensors")


def pinned(spec: LlmSpec, folder: Path) -> str:
    """What pins the weights: a commit, since hashing them would read tens of gigabytes, or the folder's digest."""
    return f"{spec.model}@{spec.revision}" if spec.revision else flat_digest(folder)


def local_identity(spec: LlmSpec, folder: Path) -> Mapping[str, Any]:
    """The weights, and how tokens are drawn."""
    return {
        "provider": "transformers",
        "model": pinned(spec, folder),
        "temperature": spec.temperature,
        "top_p": spec.top_p,
        "max_tokens": spec.max_tokens,
    }


def device_name(spec: LlmSpec) -> str:
    """Where the model runs, such as ``"cpu"``."""
    import torch

    if spec.device != "auto":
        return spec.device
    return "cuda" if torch.cuda.is_available() else "cpu"


def _load(folder: Path) -> tuple[Any, Any]:
    """Tokenizer and model of the folder. Raises LlmError if transformers cannot load them."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        return (
            AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False),
            AutoModelForCausalLM.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, use_safetensors=True, dtype="auto"
            ),
        )
    except (OSError, ValueError, KeyError) as error:
        reason = one_line(str(error), 200)
        raise LlmError(
            f"{folder}: found no causal language model that transformers can load ({reason}); download it again"
        ) from None


class LocalModel:
    """A loaded model, and the thread in which it answers; a `LanguageModel`. Raises LlmError."""

    def __init__(self, spec: LlmSpec) -> None:
        folder = language_folder(spec)
        self._spec = spec
        self._identity = local_identity(spec, folder)
        self._tokenizer, self._model = _load(folder)
        self._model.to(device_name(spec)).eval()
        ends = self._model.generation_config.eos_token_id
        self._ends = frozenset(ends if isinstance(ends, list) else [ends]) - {None}
        self._max_length: int | None = getattr(self._model.config, "max_position_embeddings", None)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="local-language-model")

    @property
    def identity(self) -> Mapping[str, Any]:
        """The commit of the weights, or the digest of the folder, and how tokens are drawn."""
        return self._identity

    @property
    def place(self) -> str:
        """The words "this process"."""
        return "this process"

    @property
    def num_parallel(self) -> int:
        """One: answers are made one by one."""
        return 1

    async def answer(self, call: Call) -> Said:
        """The answer, made in the model's thread. Raises BadAnswer, CallFailed or LlmError."""
        stop = threading.Event()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._generate, call, stop)
        finally:
            stop.set()  # if it was cancelled, the thread stops after the current token

    async def close(self) -> None:
        """End the thread after the current answer."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _generate(self, call: Call, stop: threading.Event) -> Said:
        import torch

        assert not call.images, "questions with images need open_llm(sees=True)"
        prompt = self._prompt(call)
        room = self._spec.max_tokens
        if self._max_length is not None:
            room = min(room, self._max_length - len(prompt))
        if room < 1:
            raise CallFailed("prompt_too_long", f"{len(prompt)} tokens of {self._max_length}", again=False)
        draw = random.Random(call.seed)
        tokens: list[int] = []
        with torch.inference_mode():
            seen: Any = torch.tensor([prompt], device=self._model.device)
            memory: Any = None
            while len(tokens) < room:
                if stop.is_set():
                    raise CallFailed("stopped", "")
                step = self._model(input_ids=seen, past_key_values=memory, use_cache=True)
                memory = step.past_key_values
                token = self._choose(step.logits[0, -1], draw.random())
                if token in self._ends:
                    break
                tokens.append(token)
                seen = torch.tensor([[token]], device=self._model.device)
        text = self._tokenizer.decode(tokens, skip_special_tokens=True)
        if len(text.encode("utf-8", "surrogatepass")) > self._spec.max_answer_bytes:
            raise BadAnswer("too_long", text[:1000])
        return Said(text, is_cut=len(tokens) == room, tokens_in=len(prompt), tokens_out=len(tokens))

    def _prompt(self, call: Call) -> list[int]:
        if self._tokenizer.chat_template is None:
            plain: list[int] = self._tokenizer(f"{call.system}\n\n{call.user}\n\n")["input_ids"]
            return plain
        # in one message, because not every template has a system message
        messages = [{"role": "user", "content": f"{call.system}\n\n{call.user}"}]
        from jinja2 import TemplateError

        try:
            chat = self._tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=True, return_dict=True
            )
        except (TemplateError, ValueError) as error:
            reason = one_line(str(error), 200)
            raise LlmError(
                f"llm.model {self._spec.model}: found a chat template that fails ({reason}), expected one that takes a "
                "user's message; use another model"
            ) from None
        ids: list[int] = chat["input_ids"]
        return ids

    def _choose(self, logits_V: "Tensor", chance: float) -> int:
        """A token of the vocabulary (size V), by temperature and top-p; `chance` in [0, 1) is the only random input."""
        import torch

        logits_V = logits_V.detach().to("cpu", torch.float64)
        if self._spec.temperature == 0:
            return int(logits_V.argmax())
        shares_V, order_V = (logits_V / (self._spec.temperature or 1.0)).softmax(0).sort(descending=True, stable=True)
        sums_V = shares_V.cumsum(0)
        # the fewest tokens that together have top_p
        num = int((sums_V < (self._spec.top_p or 1.0)).sum()) + 1
        sums_V = sums_V[:num]
        place = int((sums_V <= chance * sums_V[-1]).sum())
        return int(order_V[min(place, len(sums_V) - 1)])
