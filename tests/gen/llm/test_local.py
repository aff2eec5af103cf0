"""Language models of transformers: in this process, and behind `transformers serve`; both with a tiny model made here.

`learned` knows one answer by heart, `noise` was never taught anything.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cluster.process.exit import Draining
from cluster.process.stop_flag import StopFlag
from cluster.ranks.host import free_port
from gen.llm.ask import Answer, Ask, LlmUse, open_llm, system_text
from gen.llm.spec import LlmSpec
from gen.model.folder import ModelError, flat_model

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {"type": "integer"}},
    "required": ["a"],
    "additionalProperties": False,
}
TAUGHT = Ask("test", "s", "u", SCHEMA, 0)
LEARNED = '{"a": 1}'
# one message, as this process asks, and two, as a server is asked, come to the same text
TEMPLATE = "{% for m in messages %}{{ m['content'] }}\n\n{% endfor %}:"
SERVE_S = 250


def strange(count: int) -> list[Ask]:
    return [Ask("test", "Say something.", f"Thing {number}?", SCHEMA, number) for number in range(count)]


@dataclass(frozen=True)
class Serving:
    process: "subprocess.Popen[bytes]"
    port: int
    log: Path


@pytest.fixture(scope="module", autouse=True)
def starting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """`transformers serve` offline and on one core; it starts while the first tests run."""
    port = free_port()
    program = Path(sys.executable).with_name("transformers")
    log = tmp_path_factory.mktemp("serve") / "log"
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with log.open("wb") as out:
        server = subprocess.Popen(
            [str(program), "serve", "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"],
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environment,
        )
    yield Serving(server, port, log)
    server.kill()
    server.wait(timeout=60)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same Llama of 50,000 weights over bytes, before and after its lesson, in transformers' own format."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.set_num_threads(1)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(letters)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<end>", pad_token="<pad>")
    tokenizer.chat_template = TEMPLATE
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=1024,
                bos_token_id=None,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
    home = tmp_path_factory.mktemp("language-models")
    for name in ("noise", "learned"):
        if name == "learned":
            prompt = tokenizer(f"{system_text(TAUGHT)}\n\n{TAUGHT.user}\n\n:")["input_ids"]
            answer = [*tokenizer(LEARNED)["input_ids"], tokenizer.eos_token_id]
            ids = torch.tensor([prompt + answer])
            optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
            for _ in range(60):
                said = model(ids).logits[0, len(prompt) - 1 : -1]
                loss = torch.nn.functional.cross_entropy(said, ids[0, len(prompt) :])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        model.save_pretrained(home / name)
        tokenizer.save_pretrained(home / name)
    return {name: home / name for name in ("noise", "learned")}


@pytest.fixture(scope="module")
def noise(folders: dict[str, Path]) -> Path:
    return folders["noise"]


@pytest.fixture(scope="module")
def learned(folders: dict[str, Path]) -> Path:
    return folders["learned"]


def local(model: Path, cache: Path, **changes: Any) -> LlmSpec:
    fields = {"provider": "transformers", "model": str(model), "cache": str(cache), "max_tokens": 24, "device": "cpu"}
    return LlmSpec(**(fields | changes))


def asked(spec: LlmSpec, questions: list[Ask]) -> tuple[list[Answer], LlmUse]:
    with open_llm(spec) as llm:
        assert llm is not None
        return llm.ask(questions), llm.use


def said(spec: LlmSpec, questions: list[Ask]) -> list[str]:
    """What the model says as raw text, from the record of failures: noise is no answer."""
    import sqlite3

    asked(spec, questions)
    database = sqlite3.connect(spec.cache)
    rows = database.execute("SELECT excerpt FROM failures ORDER BY key, try_number").fetchall()
    database.close()
    return [row[0] for row in rows]


# in this process


def test_a_model_answers_and_a_second_run_makes_no_call(learned: Path, tmp_path: Path) -> None:
    spec = local(learned, tmp_path / "c.sqlite", temperature=0.1)
    (answer,), use = asked(spec, [TAUGHT])
    assert answer == Answer({"a": 1}, None, 1, False)
    assert use.tokens_out == len(LEARNED)
    assert use.tokens_in > 100
    assert asked(spec, [TAUGHT])[0] == [Answer({"a": 1}, None, 0, True)]


def test_noise_is_a_reason(noise: Path, tmp_path: Path) -> None:
    answers, use = asked(local(noise, tmp_path / "c.sqlite", temperature=2, tries=2), strange(5))
    assert [answer.value for answer in answers] == [None] * 5
    assert sum(use.failed.values()) == 5
    assert use.failed.keys() <= {"truncated", "not_json", "wrong_schema", "empty"}


def test_what_is_said_depends_on_the_question_and_its_seed_alone(noise: Path, tmp_path: Path) -> None:
    """Not on who is asked beside it, nor on the order, nor on the library's own generator."""
    import torch

    questions = strange(4)
    spec = {"temperature": 1.5, "tries": 1}
    together = said(local(noise, tmp_path / "a.sqlite", **spec), questions)
    torch.manual_seed(1234)
    state = torch.get_rng_state()
    backwards = said(local(noise, tmp_path / "b.sqlite", **spec), questions[::-1])
    assert torch.equal(torch.get_rng_state(), state)
    alone = [text for one in questions for text in said(local(noise, tmp_path / f"{one.seed}.sqlite", **spec), [one])]
    assert together == backwards
    assert sorted(together) == sorted(alone)
    assert len(set(together)) == 4
    seeds = [Ask("test", "s", "v", SCHEMA, seed) for seed in range(4)]
    assert len(set(said(local(noise, tmp_path / "seeds.sqlite", **spec), seeds))) == 4


def test_without_temperature_every_seed_says_the_same(noise: Path, tmp_path: Path) -> None:
    seeds = [Ask("test", "s", "v", SCHEMA, seed) for seed in range(3)]
    assert len(set(said(local(noise, tmp_path / "c.sqlite", temperature=0, tries=1), seeds))) == 1


def test_a_question_that_is_too_long_for_the_model_is_a_reason(noise: Path, tmp_path: Path) -> None:
    (answer,), _ = asked(local(noise, tmp_path / "c.sqlite"), [Ask("test", "s", "u" * 2000, SCHEMA, 0)])
    assert answer == Answer(None, "prompt_too_long", 1, False)


def test_a_model_without_a_chat_template_is_asked_in_plain_text(noise: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    shutil.copytree(noise, plain)
    (plain / "chat_template.jinja").unlink()
    (answer,), use = asked(local(plain, tmp_path / "c.sqlite", tries=1), strange(1))
    assert answer.reason is not None
    assert use.tokens_in == len(f"{system_text(strange(1)[0])}\n\nThing 0?\n\n")


def test_a_stop_ends_an_answer_in_the_middle(noise: Path, tmp_path: Path) -> None:
    stop = StopFlag()
    spec = local(noise, tmp_path / "c.sqlite", max_tokens=800, temperature=2, tries=20)
    with open_llm(spec, stop) as llm:
        assert llm is not None
        threading.Timer(0.5, stop.request, ("a test",)).start()
        start = time.monotonic()
        with pytest.raises(Draining):
            llm.ask(strange(100))
    assert time.monotonic() - start < 60


def test_another_folder_with_the_same_name_is_another_model(learned: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(learned, moved)
    cache = tmp_path / "c.sqlite"
    asked(local(learned, cache, temperature=0.1), [TAUGHT])
    assert asked(local(moved, cache, temperature=0.1), [TAUGHT])[1].cached == 1
    config = json.loads((moved / "config.json").read_text())
    (moved / "config.json").write_text(json.dumps(config | {"rope_theta": 9999.0}))
    assert asked(local(moved, cache, temperature=0.1), [TAUGHT])[1].cached == 0


# folders that are not loaded


def spoil_remote_code(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModelForCausalLM": "model.Mine"}}))


def spoil_tokenizer_code(folder: Path) -> None:
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"auto_map": {"AutoTokenizer": ["a.B", None]}}))


def spoil_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def spoil_weights(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def spoil_type(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "no-such-model"}')


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / "modeling.py").write_text("raise SystemExit"), "found code in the model folder"),
        (spoil_remote_code, "'auto_map' in config.json"),
        (spoil_tokenizer_code, "'auto_map' in tokenizer_config.json"),
        (spoil_pickle, "only pytorch_model.bin, expected model.safetensors"),
        (spoil_weights, "sound safetensors file"),
        (lambda folder: (folder / "adapter_config.json").write_text("{}"), "found an adapter"),
        (lambda folder: (folder / "config.json").write_text("[" * 100_000), "expected JSON"),
        (lambda folder: (folder / "config.json").unlink(), "a folder without config.json"),
        (spoil_type, "found no causal language model that transformers can load"),
    ],
)
def test_a_folder_that_could_run_code_or_is_not_whole_is_refused_in_one_line(
    spoil: Any, words: str, noise: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(noise, bad)
    spoil(bad)
    with pytest.raises(ValueError, match=words) as caught:
        asked(local(bad, tmp_path / "c.sqlite"), [TAUGHT])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "revision", "words"),
    [
        ("owner/name", None, "no such folder.*llm.revision=<40 hex digits>"),
        ("owner/name", "main", "expected a commit of 40 hex digits.* set llm.revision"),
        ("../name", "0" * 40, "expected a hub id"),
        ("owner/name", "0" * 40, "is not in the hub cache of this machine; get it with `hf download"),
    ],
)
def test_a_model_that_is_not_here_is_not_fetched(model: str, revision: str | None, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        flat_model("llm.model", model, revision, "config.json", "model.safetensors")


# behind a real server


@pytest.fixture(scope="module")
def served(starting: Serving) -> str:
    """The address of the server, once it answers."""
    deadline = time.monotonic() + SERVE_S
    while True:
        assert starting.process.poll() is None, starting.log.read_text()
        assert time.monotonic() < deadline, starting.log.read_text()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{starting.port}/health", timeout=2):
                return f"http://127.0.0.1:{starting.port}/v1"
        except OSError:
            time.sleep(0.1)


def test_transformers_serve_answers_and_its_noise_is_a_reason(
    served: str, learned: Path, noise: Path, tmp_path: Path
) -> None:
    spec = LlmSpec(
        provider="openai",
        model=str(learned),
        base_url=served,
        cache=str(tmp_path / "c.sqlite"),
        temperature=0,
        max_tokens=24,
        tries=2,
    )
    answers, use = asked(spec, [TAUGHT])
    assert answers == [Answer({"a": 1}, None, 1, False)]
    assert use.tokens_in > 100
    assert use.tokens_out >= len(LEARNED)
    assert asked(spec, [TAUGHT])[0] == [Answer({"a": 1}, None, 0, True)]
    answers, use = asked(spec.model_copy(update={"model": str(noise)}), strange(3))
    assert [answer.value for answer in answers] == [None] * 3
    assert use.calls == 6
    assert use.failed.keys() <= {"truncated", "not_json", "wrong_schema", "empty"}


def test_a_model_that_transformers_serve_does_not_have_is_a_reason(served: str, tmp_path: Path) -> None:
    spec = LlmSpec(provider="openai", model="another", base_url=served, cache=str(tmp_path / "c.sqlite"), tries=1)
    (answer,), _ = asked(spec, [TAUGHT])
    assert answer == Answer(None, "http_500", 1, False)
