"""A language model behind an OpenAI-compatible server: vLLM, SGLang, Ollama, `transformers serve`, the hosted ones.

In: an `LlmSpec`, the server's key. Out: answers. On disk: nothing.

The key is sent to the host of `base_url` and nowhere else: redirects are not followed, and plain http to another
machine is refused if there is a key. The client's own retries are off; gen.llm.ask decides. A body is read in pieces,
and dropped as soon as it is too long. `response_format` asks for the schema; if a server refuses that field (400, 422),
it is left out from then on, because the schema is also in the text. An error that comes as HTTP 200 counts as the code
that it names, or as 429. What a server says of a refusal is quoted, with the recipe's field that would change it.

Images go as data URLs before the text, and only then is a message's content a list. A server that says that its model
sees no images ends the run in one line.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gen.llm.call import BadAnswer, Call, CallFailed, LlmError, Said
from gen.llm.image import data_url, without_images
from gen.llm.spec import LlmSpec, check_base_url
from shards.disk.checked_json import plain_json
from shards.disk.safe_text import one_line, quoted, redact

HOSTED = "https://api.openai.com/v1"
NO_KEY = "none"  # sent to a server of one's own if no key is set
LOOPBACK = re.compile(r"localhost|127(\.[0-9]{1,3}){3}|::1")
MIN_KEY_CHARS = 8
MAX_ERROR_BYTES = 4096
MAX_ENVELOPE_BYTES = 65_536  # of a completion, without the model's text
MAX_ESCAPED = 6  # bytes of \u0000, the longest way to write one byte in JSON
AGAIN = frozenset({200, 408, 409, 425, 429})  # HTTP codes after which a call is repeated, and all from 500 on
REFUSALS = frozenset({400, 422})  # what was sent does not please
LENGTHS = ("minLength", "maxLength")  # of a schema; OpenAI's strict mode refuses a schema that has them
MAX_QUOTED = 300  # characters of a server's words in a message
_ROLE = re.compile(
    r"\b(system|developer)\b.{0,40}\b(role|message|prompt|instruction)"
    r"|\broles?\b.{0,60}\b(support|alternate|user|system|developer)",
    re.I,
)
# What servers say of a model without eyes: OpenAI, vLLM, SGLang, llama.cpp, Ollama, Mistral, OpenRouter, DeepSeek, Groq
_SIGHTLESS = re.compile(
    r"not an? (vision|multi-?modal)\b|at most 0 images?\b|\bmmproj\b"
    r"|\bimage_url\b.{0,60}\b(only|expected|unsupported|not|unknown)\b"
    r"|\b(unsupported|unknown|unexpected)\b.{0,40}\bimage_url\b"
    r"|\b(image|images|vision|multi-?modal|image input|image inputs)\b (is|are|input is|content is|inputs? are)? ?"
    r"(not|un)[- ]?(currently )?(support|enabl|available)"
    r"|\b(not|n['’]t|cannot|no endpoints?|without)\b.{0,40}\b(support|accept)\w* (for )?"
    r"(image|vision|multi-?modal)(?!\w* (type|format|size|dimension))"
    r"|\bcontent\b.{0,30}\bmust be a string\b|\bdata required for image\b",
    re.I,
)
SIGHTLESS_STATUSES = frozenset({400, 404, 415, 422, 500, 501})
WHAT_TO_DO = {
    401: "set the environment variable {key_env} to a key of this server",
    403: "use a key that may use this model, or another llm.model",
    404: "check llm.base_url (it often ends in /v1) and llm.model",
}


class _Refused(Exception):
    """An answer that is no 200, with the beginning of its body."""

    def __init__(self, status: int, body: str, headers: Mapping[str, str]) -> None:
        super().__init__(status)
        self.status, self.body, self.headers = status, body, headers


def openai_identity(spec: LlmSpec) -> Mapping[str, Any]:
    """Model and sampling, without the address: a server that is started again elsewhere uses the same cache."""
    sampling = {"temperature": spec.temperature, "top_p": spec.top_p, "max_tokens": spec.max_tokens}
    extra = {"extra": dict(spec.extra)} if spec.extra else {}
    return {"provider": "openai", "model": spec.model, **sampling, **extra}


class OpenAiModel:
    """A client of one server; a `LanguageModel`. The key is looked up in `environment`. Raises LlmError."""

    def __init__(self, spec: LlmSpec, environment: Mapping[str, str]) -> None:
        import openai

        url = spec.base_url or HOSTED
        parts = check_base_url(url)
        host = parts.hostname or ""
        is_here = LOOPBACK.fullmatch(host) is not None
        is_open = parts.scheme == "http" and not is_here
        self._spec = spec
        self._place = f"{host}:{parts.port}" if parts.port else host
        self._key = _key(spec.key_env, environment, is_here or is_open, self._place)
        if is_open and self._key != NO_KEY:
            raise LlmError(
                f"llm.base_url: found plain http to {host[:80]} and a key in the environment variable {spec.key_env}, "
                f"which could be read on the way; unset {spec.key_env} if the server needs none, or use https or a "
                f"tunnel (`ssh -L 8000:{host[:80]}:{parts.port or 80} {host[:80]}` and http://127.0.0.1:8000/v1)"
            )
        self._is_plain = not spec.send_schema  # also once the server turned out not to know response_format
        self._limit_bytes = MAX_ESCAPED * spec.max_answer_bytes + MAX_ENVELOPE_BYTES
        self._client = openai.AsyncOpenAI(
            api_key=self._key,
            base_url=url,
            max_retries=0,
            timeout=spec.timeout_s,
            # compressed answers are refused: a small one can unpack to gigabytes
            default_headers={"Accept-Encoding": "identity"},
            http_client=openai.DefaultAsyncHttpxClient(
                follow_redirects=False, trust_env=not is_here, event_hooks={"response": [self._check_head]}
            ),
        )

    @property
    def identity(self) -> Mapping[str, Any]:
        """`openai_identity` of the spec."""
        return openai_identity(self._spec)

    @property
    def place(self) -> str:
        """Host and port of the server."""
        return self._place

    @property
    def num_parallel(self) -> int:
        """As many as the recipe allows; the server has a queue."""
        return self._spec.max_in_flight

    async def answer(self, call: Call) -> Said:
        """The server's answer. Raises BadAnswer, CallFailed or LlmError."""
        if self._is_plain:
            return await self._send(call, {})
        form = {"name": "answer", "strict": True, "schema": strict_schema(call.schema)}
        try:
            return await self._send(call, {"response_format": {"type": "json_schema", "json_schema": form}})
        except CallFailed as error:
            if error.reason not in ("http_400", "http_422"):
                raise
        said = await self._send(call, {})
        self._is_plain = True  # set only now: the server might have refused the call for another reason
        return said

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _send(self, call: Call, form: Mapping[str, Any]) -> Said:
        import openai

        spec = self._spec
        wishes = {
            "temperature": spec.temperature,
            "top_p": spec.top_p,
            spec.max_tokens_field: spec.max_tokens,
            "seed": call.seed if spec.send_seed else None,
        }
        sent = {name: wish for name, wish in wishes.items() if wish is not None} | dict(form) | dict(spec.extra)
        try:
            async with self._client.chat.completions.with_streaming_response.create(
                model=spec.model or "", messages=self._messages(call), extra_body=sent
            ) as response:
                headers, body = response.headers, bytearray()
                async for piece in response.iter_bytes():
                    body += piece
                    if len(body) > self._limit_bytes:
                        raise BadAnswer("too_long", self._hide_key(_decoded(body[:MAX_ERROR_BYTES])))
        except openai.APITimeoutError:
            raise CallFailed("timeout", "") from None
        except openai.APIConnectionError as error:
            raise CallFailed("unreachable", self._hide_key(str(error.__cause__ or error))) from None
        except _Refused as error:
            raise self._failure(error.status, error.body, error.headers, sent, call) from None
        except (BadAnswer, CallFailed, LlmError):
            raise
        except Exception as error:  # the HTTP library's error while the body is read; its type differs by version
            raise CallFailed("cut_off", self._hide_key(f"{type(error).__name__}: {error}")) from None
        told = _read_error(_decoded(body[:MAX_ENVELOPE_BYTES]))
        if told is not None:
            raise self._failure(told.status or 200, _decoded(body[:MAX_ENVELOPE_BYTES]), headers, sent, call)
        return self._read(bytes(body))

    def _messages(self, call: Call) -> Any:
        """The two texts of a call; in one message for a model that knows users only."""
        role = self._spec.system_role
        if role == "user":
            return [{"role": "user", "content": _content(f"{call.system}\n\n{call.user}", call.images)}]
        return [{"role": role, "content": call.system}, {"role": "user", "content": _content(call.user, call.images)}]

    async def _check_head(self, response: Any) -> None:
        """Raise for every answer but a plain 200, before its body is read."""
        status = int(response.status_code)
        if status == 200:
            encoding = response.headers.get("content-encoding", "identity")
            if encoding != "identity":
                raise CallFailed("compressed", encoding)
            return
        if 300 <= status < 400:
            raise LlmError(
                f"llm: found a redirect ({status}) at {self._place}, expected an answer; set llm.base_url to the "
                "final address (a key is never sent on)"
            )
        said = bytearray()
        async for piece in response.aiter_raw():
            said += piece
            if len(said) >= MAX_ERROR_BYTES:
                break
        raise _Refused(status, _decoded(said[:MAX_ERROR_BYTES]), response.headers)

    def _failure(
        self, status: int, body: str, headers: Mapping[str, str], sent: Mapping[str, Any], call: Call
    ) -> CallFailed | LlmError:
        """What an error of the server means. `status` is 200 where it names no code: then it counts as 429."""
        told = _read_error(body)
        words = redact(self._hide_key(body if told is None else told.words))
        words = without_images(words) if call.images else words
        said = quoted(one_line(words), MAX_QUOTED)
        found = f"llm: found HTTP {status} from {self._place} ({said}), expected an answer; "
        if call.images and status in SIGHTLESS_STATUSES and _SIGHTLESS.search(words):
            return LlmError(
                f"{found}this model sees no images: set llm.model to one that does, on a server that has it"
            )
        if status in WHAT_TO_DO:
            return LlmError(found + WHAT_TO_DO[status].format(key_env=self._spec.key_env))
        if status in REFUSALS and "response_format" not in sent:
            advice = _switch(words, self._spec, sent, call.user)
            if advice is not None:
                return LlmError(f"{found}set {advice}")
        after = headers.get("retry-after", "")
        # the other form of the field, a date, is ignored: the usual wait applies
        after_s = float(after) if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", after) else 0.0
        again = status in AGAIN or status >= 500
        return CallFailed(f"http_{status}", words, again=again, after_s=after_s)

    def _read(self, body: bytes) -> Said:
        """The answer in the body of a completion. Raises BadAnswer."""
        try:
            completion = json.loads(body)
            choice = completion["choices"][0]
            message = choice["message"]
            text, refusal = _joined(message.get("content")), message.get("refusal")
            finish = choice.get("finish_reason")
            usage = completion.get("usage") or {}
            tokens = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
        except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
            raise BadAnswer("not_a_completion", self._hide_key(_decoded(body[:MAX_ERROR_BYTES]))) from None
        if len(text.encode("utf-8", "surrogatepass")) > self._spec.max_answer_bytes:
            raise BadAnswer("too_long", self._hide_key(text[:MAX_ERROR_BYTES]))
        is_refused = bool(refusal) or finish == "content_filter"
        counts = [count if type(count) is int and 0 <= count < 2**31 else 0 for count in tokens]
        return Said(
            text=self._hide_key(text or str(refusal or "")),
            is_cut=finish == "length",
            is_refused=is_refused,
            tokens_in=counts[0],
            tokens_out=counts[1],
        )

    def _hide_key(self, text: str) -> str:
        """The text without the key, which a server may repeat. A short key such as EMPTY stays: it may be a word."""
        return text.replace(self._key, "[key]") if len(self._key) >= MIN_KEY_CHARS else text


def strict_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema as hosted servers take it in strict mode: every property is required (one that may be left out may be
    null too), and no text has a length. Answers are compared with the schema itself."""

    def strict(part: Any) -> Any:
        if isinstance(part, list):
            return [strict(one) for one in part]
        if not isinstance(part, Mapping):
            return part
        found = {name: strict(value) for name, value in part.items() if name not in LENGTHS}
        if isinstance(part.get("properties"), Mapping):
            properties = {name: strict(value) for name, value in part["properties"].items()}
            found |= {"properties": properties, "required": list(properties)}
        return found

    return {**strict(schema)}


def _key(name: str, environment: Mapping[str, str], may_be_missing: bool, place: str) -> str:
    key = environment.get(name, "")
    if not key and may_be_missing:
        return NO_KEY
    if not key:
        raise LlmError(
            f"llm: found no key for {place}, expected one in the environment variable {name}; export it, or set "
            "llm.key_env to the name of another"
        )
    if not re.fullmatch(r"[!-~]{1,4096}", key):
        raise LlmError(
            f"llm: found blanks or other odd characters in the key of the environment variable {name}, expected one "
            "word of plain letters; export it again"
        )
    return key


@dataclass(frozen=True)
class _Told:
    """An error as the body of an answer tells it."""

    status: int | None  # the HTTP code that it names
    words: str


def _read_error(text: str) -> _Told | None:
    """The error in a JSON body, in the forms of OpenAI, vLLM, Mistral, Ollama, OpenRouter, Google, FastAPI; None if
    there is none."""
    try:
        body = plain_json(text)
    except ValueError:
        return None
    if isinstance(body, list) and len(body) == 1:
        body = body[0]
    if not isinstance(body, dict):
        return None
    choices = body.get("choices")
    if choices:
        first = choices[0] if isinstance(choices, list) else None
        error = first.get("error") if isinstance(first, dict) else None
    else:
        is_bare = body.get("object") == "error" or ("choices" not in body and isinstance(body.get("message"), str))
        error = body if is_bare else body.get("error") or body.get("errors") or body.get("detail")
    if not error:
        return None
    facts = error if isinstance(error, dict) else {}
    said = next((facts[name] for name in ("message", "detail") if isinstance(facts.get(name), str)), None)
    words = said or (error if isinstance(error, str) else json.dumps(error))
    for code in (facts.get(name, body.get(name)) for name in ("code", "status", "status_code")):
        if re.fullmatch("[45][0-9]{2}", str(code)):
            return _Told(int(str(code)), words)
    return _Told(None, words)


def _switch(words: str, spec: LlmSpec, sent: Mapping[str, Any], question: str) -> str | None:
    """The change of the recipe that leaves out, or renames, what the server's words refuse; None if they name nothing
    of ours. A word of the question itself names nothing."""
    other = "max_tokens" if spec.max_tokens_field == "max_completion_tokens" else "max_completion_tokens"
    switches = {
        spec.max_tokens_field: f"llm.max_tokens_field={other}, or a smaller llm.max_tokens",
        "seed": "llm.send_seed=false",
        "temperature": "llm.temperature=null (or a value that it takes)",
        "top_p": "llm.top_p=null (or a value that it takes)",
        "response_format": "llm.send_schema=false",
        **{name: f"llm.extra without {quoted(name, 60)}" for name in spec.extra},
    }
    for name, advice in switches.items():
        if name in sent and _names(name, words) and not _names(name, question):
            return advice
    if spec.system_role != "user" and _ROLE.search(words) and not _ROLE.search(question):
        return "llm.system_role=user"
    return None


def _names(name: str, text: str) -> bool:
    return re.search(rf"(?<![A-Za-z0-9_]){re.escape(name)}(?![A-Za-z0-9_])", text) is not None


def _content(text: str, images: Sequence[bytes]) -> Any:
    """A user's message: plain text, or a list of parts with the images first."""
    if not images:
        return text
    return [
        *({"type": "image_url", "image_url": {"url": data_url(image)}} for image in images),
        {"type": "text", "text": text},
    ]


def _joined(content: Any) -> str:
    """A message's text; of a list of parts those that are text, not the model's thoughts."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [part if isinstance(part, str) else part.get("text") for part in parts if isinstance(part, (str, dict))]
    return "".join(text for text in texts if isinstance(text, str))


def _decoded(body: bytes | bytearray) -> str:
    return body.decode("utf-8", "replace")
