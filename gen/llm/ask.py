"""Asks a language model: questions go in; for each, checked JSON or the reason for its absence comes out.

In: an `LlmSpec` (the recipe's `llm`) and `Ask`s. Out: an `Answer` for each, in their order. On disk: the cache
(gen.llm.cache), from which a second run takes the same bytes without a call.

A question is tried up to `tries` times. If the answer cannot be used (gen.llm.answer), the model is asked again at once
with another seed. If the call failed (time-out, 429, 500, no server), the same call is repeated after a wait, which
doubles each time or is the one that the server asks for. Failed calls never change an answer, so equal questions give
equal answers as far as the model does.

At most `max_in_flight` calls run at a time, over all threads, whether one `ask` has a thousand questions or a thousand
threads have one each. After a stop (Ctrl-C, StopFlag) no call is sent; running calls get DRAIN_S to finish, and every
answer that came is stored.
"""

import asyncio
import hashlib
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from cluster.process.exit import Draining
from cluster.process.stop_flag import StopFlag
from cluster.recipes.load import canonical_json, fingerprint
from gen.llm.answer import read_answer
from gen.llm.cache import LlmCache
from gen.llm.call import BadAnswer, Call, CallFailed, LanguageModel, LlmError
from gen.llm.image import check_images, image_digest, without_images
from gen.llm.spec import LlmSpec
from shards.disk.address import file_path
from shards.disk.record import JSON
from shards.disk.safe_text import one_line, quoted

DRAIN_S = 3.0
POLL_S = 0.1  # between two looks at the stop flag
CLOSE_S = 5.0
MAX_TOLD = 200  # characters of what was said instead of an answer
STOPPED = "stopped on request; all answers so far are in the cache"


@dataclass(frozen=True)
class Ask:
    """One question. Equal questions have equal answers; another seed makes another question."""

    purpose: str  # what it is for, such as "meanings": stored with the answer, no part of the question
    system: str
    user: str
    schema: Mapping[str, JSON]  # JSON Schema (draft 2020-12) of the answer
    seed: int
    images: tuple[bytes, ...] = field(default=(), repr=False)  # PNG or JPEG (gen.llm.image), seen before `user`


@dataclass(frozen=True)
class Answer:
    """The answer, or the reason why there is none: exactly one of `value` and `reason` is None.

    A schema must not allow null, so a `value` of None always means that there is no answer.
    """

    value: JSON
    reason: str | None
    tries: int  # calls made now; 0 if it was cached
    cached: bool
    told: str = field(default="", compare=False)  # what was said instead, for people: one line; "" with a value
    lost: bool = field(default=False, compare=False)  # no answer, and a call failed on its way: another day it may come


@dataclass(frozen=True)
class LlmUse:
    """Counts since the model was opened."""

    asked: int  # questions
    cached: int  # of these: answered from the cache
    answered: int  # of these: answered by a call
    failed: Mapping[str, int]  # of these: without an answer, by reason
    calls: int
    lost_calls: Mapping[str, int]  # calls without a usable answer, by reason
    tokens_in: int  # as far as the server reports them
    tokens_out: int


class Llm(Protocol):
    """An open language model. Any thread may ask."""

    def ask(self, asks: Sequence[Ask]) -> list[Answer]:
        """The answers, in the order of the questions. Raises LlmError if no call can succeed, Draining after a stop."""

    @property
    def use(self) -> LlmUse:
        """How many questions, calls and tokens so far."""


def ask_for_keeps(llm: Llm, asks: Sequence[Ask]) -> list[Answer]:
    """As `Llm.ask`, for answers from which something is drawn that a run keeps.

    Raises LlmError too if an answer was lost on its way: the draw would go on with other questions and differ for ever
    from one of another day.
    """
    answers = llm.ask(asks) if asks else []
    lost = [answer for answer in answers if answer.lost]
    if lost:
        raise LlmError(
            f"llm, {asks[0].purpose}: found no answer to {len(lost):,} of {len(asks):,} questions, as calls failed on "
            f"their way ({lost[0].reason}{', ' if lost[0].told else ''}{lost[0].told}), expected one to each; check "
            "the server, or raise llm.tries or llm.timeout_s, and run the same command again: answers so far are in "
            "the cache"
        )
    return answers


@contextmanager
def open_llm(
    spec: LlmSpec, stop: StopFlag | None = None, clock: Callable[[], float] = time.time, sees: bool = False
) -> Iterator[Llm | None]:
    """The language model of a recipe; None for provider offline. `clock` gives the times in the cache's rows.

    `sees`: questions have images, so a model in this process is loaded as one that sees them. Raises LlmError if the
    model or the cache cannot be opened.
    """
    model = _open_model(spec, sees)
    if model is None:
        yield None
        return
    cache = LlmCache(file_path(spec.cache), clock)
    try:
        asking = _Asking(spec, model, cache, stop)
        try:
            yield asking
        finally:
            asking.close()
    finally:
        cache.close()


def model_identity(spec: LlmSpec, sees: bool = False) -> Mapping[str, Any]:
    """What an answer depends on besides the question, as plain JSON; nothing is loaded. Empty for provider offline.

    Raises ModelError if a model of this process is missing or unsafe.
    """
    if spec.provider == "openai":
        from gen.llm.openai import openai_identity

        return openai_identity(spec)
    if spec.provider == "transformers":
        from gen.llm.local import language_folder, local_identity
        from gen.llm.local_vision import vision_identity

        return (vision_identity if sees else local_identity)(spec, language_folder(spec))
    return {}


def _open_model(spec: LlmSpec, sees: bool) -> LanguageModel | None:
    if spec.provider == "openai":
        from gen.llm.openai import OpenAiModel

        return OpenAiModel(spec, os.environ)
    if spec.provider == "transformers" and sees:
        from gen.llm.local_vision import LocalVisionModel

        return LocalVisionModel(spec)
    if spec.provider == "transformers":
        from gen.llm.local import LocalModel

        return LocalModel(spec)
    return None


def call_seed(seed: int, num_bad: int) -> int:
    """The 31-bit seed of a call: a function of the question's seed and of the number of unusable answers before."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{num_bad}".encode()).digest()[:4], "big") >> 1


def system_text(ask: Ask) -> str:
    """The system text of a call. It always contains the schema, because not every server can bind its model to one."""
    form = canonical_json(_plain(ask.schema)).decode()
    return f"{ask.system}\n\nAnswer with one JSON value and nothing else. It must fit this JSON Schema:\n{form}"


def _plain(schema: Mapping[str, JSON]) -> dict[str, Any]:
    """The schema as plain data with sorted keys: the same in the cache's key, in the text and for the server."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(schema), sort_keys=True))
    return plain


def _check_asks(asks: Sequence[Ask]) -> None:
    from jsonschema import Draft202012Validator

    checked: set[str] = set()
    for ask in asks:
        for text in (ask.system, ask.user):
            try:
                text.encode("utf-8")
            except UnicodeEncodeError:
                raise ValueError(
                    f"llm, ask for {ask.purpose}: found a lone surrogate in {quoted(text, 60)}, expected Unicode text"
                ) from None
        check_images(ask.images, ask.purpose)
        schema = _plain(ask.schema)
        name = fingerprint(schema)
        if name not in checked:  # a check takes 1 ms, and most questions of a run share a schema
            Draft202012Validator.check_schema(schema)
            assert not Draft202012Validator(schema).is_valid(None), "a schema that allows null"
            checked.add(name)


class _Asking:
    """An open model. Owns the thread in which all calls run; only that thread's event loop changes state."""

    def __init__(self, spec: LlmSpec, model: LanguageModel, cache: LlmCache, stop: StopFlag | None) -> None:
        self._spec, self._model, self._cache, self._stop = spec, model, cache, stop
        self._identity = dict(model.identity)
        self._counts: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()  # of the counts
        self._jobs: dict[str, asyncio.Task[Answer]] = {}  # by key: questions that are being asked now
        self._lost_in_a_row = self._useless_in_a_row = 0
        self._fatal: LlmError | None = None
        self._loop = asyncio.new_event_loop()
        self._ending: asyncio.Future[None] = self._loop.create_future()  # once it is done, no call is sent
        self._ended_at = 0.0
        self._slots = asyncio.Semaphore(min(spec.max_in_flight, model.num_parallel))
        self._thread = threading.Thread(target=self._loop.run_forever, name="language-model", daemon=True)
        self._thread.start()

    @property
    def use(self) -> LlmUse:
        """A copy of the counts so far."""
        with self._lock:
            counts = Counter(self._counts)

        def by_reason(what: str) -> dict[str, int]:
            return {reason: counts[key] for key in sorted(counts) for reason in key[1:] if key[0] == what}

        return LlmUse(
            asked=counts["asked", ""],
            cached=counts["cached", ""],
            answered=counts["answered", ""],
            failed=by_reason("failed"),
            calls=counts["calls", ""],
            lost_calls=by_reason("lost"),
            tokens_in=counts["tokens_in", ""],
            tokens_out=counts["tokens_out", ""],
        )

    def ask(self, asks: Sequence[Ask]) -> list[Answer]:
        """Hand the questions to the loop and wait, looking at the stop flag every POLL_S."""
        _check_asks(asks)
        work = asyncio.run_coroutine_threadsafe(self._ask_all(list(asks)), self._loop)
        try:
            while not wait([work], timeout=POLL_S).done and self._thread.is_alive():
                if self._stop is not None and self._stop.requested:
                    self._loop.call_soon_threadsafe(self._end)
                    break
        except KeyboardInterrupt:
            self._loop.call_soon_threadsafe(self._end)
            raise
        if not work.done() or work.cancelled():
            raise Draining(STOPPED)
        return work.result(timeout=0)

    def close(self) -> None:
        """End the thread. Calls that still run, as after a stop, get what is left of DRAIN_S."""
        shut = asyncio.run_coroutine_threadsafe(self._shut(), self._loop)
        wait([shut], timeout=DRAIN_S + CLOSE_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=CLOSE_S)
        if not self._thread.is_alive():
            self._loop.close()

    # everything below runs in the event loop

    def _end(self) -> None:
        if not self._ending.done():
            self._ended_at = self._loop.time()
            self._ending.set_result(None)

    async def _shut(self) -> None:
        self._end()
        if self._jobs:
            await asyncio.wait(self._jobs.values(), timeout=max(0.0, self._ended_at + DRAIN_S - self._loop.time()))
        for job in list(self._jobs.values()):
            job.cancel()
        if self._jobs:
            await asyncio.wait(self._jobs.values(), timeout=1)
        await self._model.close()

    def _count(self, what: str, reason: str = "", by: int = 1) -> None:
        with self._lock:
            self._counts[what, reason] += by

    async def _ask_all(self, asks: list[Ask]) -> list[Answer]:
        found: dict[int, Answer] = {}
        places = iter(range(len(asks)))

        async def go_on() -> None:
            for place in places:
                try:
                    found[place] = await self._settled(asks[place])
                except Draining:
                    return
                except LlmError as error:
                    self._fatal = self._fatal or error
                    self._end()
                    return

        # a few tasks for the whole list, because a million questions would be a million tasks
        await asyncio.gather(*(go_on() for _ in range(min(len(asks), self._spec.max_in_flight))))
        if self._fatal is not None:
            raise self._fatal
        if len(found) < len(asks):
            raise Draining(STOPPED)
        return [found[place] for place in range(len(asks))]

    async def _settled(self, ask: Ask) -> Answer:
        """The answer to one question: from the cache, from a job that asks the same now, or by calls."""
        if self._ending.done():
            raise Draining(STOPPED)
        call = Call(system_text(ask), ask.user, _plain(ask.schema), ask.seed, ask.system, ask.images)
        key = fingerprint(
            {"model": self._identity, "system": call.system, "user": call.user, "schema": call.schema, "seed": ask.seed}
            | ({"images": [image_digest(image) for image in ask.images]} if ask.images else {})
        )
        kept = self._cache.get(key)
        if kept is not None:
            answer = Answer(_value(kept, self._spec.cache), None, 0, True)
        else:
            if key not in self._jobs:
                self._jobs[key] = asyncio.ensure_future(self._asked(key, ask, call))
                self._jobs[key].add_done_callback(lambda job: self._put_away(key, job))
            # shielded: a caller that goes away must not cancel the job of another one
            answer = await asyncio.shield(self._jobs[key])
        self._count("asked")
        if answer.reason is not None:
            self._count("failed", answer.reason)
        else:
            self._count("cached" if answer.cached else "answered")
        return answer

    def _put_away(self, key: str, job: "asyncio.Task[Answer]") -> None:
        del self._jobs[key]
        if not job.cancelled():
            job.exception()  # mark it as retrieved, in case that nobody waits for it any more

    async def _asked(self, key: str, ask: Ask, call: Call) -> Answer:
        num_bad = num_lost = 0
        is_lost = False
        reason = excerpt = ""
        async with self._slots:
            for number in range(1, self._spec.tries + 1):
                if self._ending.done():
                    raise Draining(STOPPED)
                wait_s = 0.0
                self._count("calls")
                try:
                    value = await self._called(call, ask.seed, num_bad)
                    self._useless_in_a_row = 0
                    kept = self._cache.put(key, value, ask.purpose, self._model.place)
                    return Answer(_value(kept, self._spec.cache), None, number, False)
                except BadAnswer as error:
                    num_bad, self._lost_in_a_row = num_bad + 1, 0
                    reason, excerpt, again = error.reason, error.excerpt, True
                except CallFailed as error:
                    reason, excerpt, again = error.reason, error.excerpt, error.again
                    wait_s = min(max(error.after_s, self._spec.backoff_s * 2**num_lost), self._spec.max_wait_s)
                    num_lost += 1
                    is_lost = is_lost or again
                excerpt = without_images(excerpt) if ask.images else excerpt
                self._count("lost", reason)
                self._cache.put_failure(key, ask.purpose, number, reason, excerpt)
                if not again or number == self._spec.tries:
                    break
                if wait_s:
                    await asyncio.wait([self._ending], timeout=wait_s)
        told = quoted(one_line(excerpt), MAX_TOLD) if excerpt else ""
        last = f"{reason}, {told}" if told else reason
        if num_bad == 0:
            self._lost_in_a_row += 1
        else:
            self._useless_in_a_row += 1
        if self._useless_in_a_row >= self._spec.give_up_after_useless:
            raise LlmError(
                f"llm: found {self._useless_in_a_row} questions in a row to which {self._spec.model} at "
                f"{self._model.place} gave no usable answer (the last: {last}), expected JSON that fits; look at the "
                f"table `failures` of {self._spec.cache}, and use another llm.model, or none with llm.provider=offline"
            )
        if self._lost_in_a_row >= self._spec.give_up_after:
            slow = "raise llm.timeout_s or lower llm.max_tokens"
            raise LlmError(
                f"llm: found {self._lost_in_a_row} questions in a row without an answer of the model at "
                f"{self._model.place} (the last: {last}), expected one; "
                f"{slow if reason == 'timeout' else 'check the server'} and run the same command again: answers so far "
                f"are in {self._spec.cache}"
            )
        return Answer(None, reason, number, False, told, is_lost)

    async def _called(self, call: Call, seed: int, num_bad: int) -> str:
        """One call, within its deadline; the answer as canonical JSON."""
        try:
            async with asyncio.timeout(self._spec.timeout_s):
                said = await self._model.answer(replace(call, seed=call_seed(seed, num_bad)))
        except TimeoutError:
            raise CallFailed("timeout", f"no whole answer within {self._spec.timeout_s:g} s") from None
        self._lost_in_a_row = 0
        self._count("tokens_in", by=said.tokens_in)
        self._count("tokens_out", by=said.tokens_out)
        return read_answer(said, call.schema)


def _value(kept: str, cache: str) -> Any:
    try:
        return json.loads(kept)
    except ValueError:
        raise LlmError(
            f"llm.cache {cache}: found an answer that is not JSON; move this file away and ask again"
        ) from None
