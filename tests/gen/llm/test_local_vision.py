"""Vision-language models of transformers in this process, with a tiny LLaVA made here."""

import io
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from gen.llm.ask import Answer, Ask, LlmUse, open_llm
from gen.llm.call import LlmError
from gen.llm.choice import choice_schema
from gen.llm.spec import LlmSpec
from shards.disk.home import home
from tests.gen.llm.test_ask import WORD
from tests.gen.llm.test_images import RED, about, encoded
from tests.support.tiny_llava import WORDS, tiny_llava
from tests.support.workers import printed_seed


@pytest.fixture(scope="module")
def eyes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llava(tmp_path_factory.mktemp("eyes"), "You see things.\n\nIs it red?")


def local(model: Path, cache: Path, **changes: Any) -> LlmSpec:
    fields = {"provider": "transformers", "model": str(model), "cache": str(cache), "device": "cpu"}
    return LlmSpec(**(fields | changes))


def seen_by(spec: LlmSpec, questions: list[Ask]) -> tuple[list[Answer], LlmUse]:
    with open_llm(spec, sees=True) as llm:
        assert llm is not None
        return llm.ask(questions), llm.use


def test_a_model_in_this_process_answers_by_what_it_sees(eyes: Path, tmp_path: Path) -> None:
    spec = local(eyes, tmp_path / "c.sqlite", temperature=2)
    questions = [about(encoded((160, 0, 0))), about(encoded((0, 0, 160), side_px=40)), about(encoded((201, 9, 4)))]
    answers, use = seen_by(spec, questions)
    assert [answer.value for answer in answers] == [{"answer": "yes"}, {"answer": "no"}, {"answer": "yes"}]
    assert (use.calls, use.tokens_out) == (3, 3)
    again, use = seen_by(spec, questions)
    assert [answer.value for answer in again] == [answer.value for answer in answers]
    assert (use.calls, use.cached) == (0, 3)


def test_its_answer_is_the_word_that_is_likelier_as_the_next_token(eyes: Path, tmp_path: Path) -> None:
    """Computed once more with transformers alone, for images of which many are in doubt."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    seed = printed_seed()
    luck = random.Random(seed)
    images = [encoded((luck.randrange(256), luck.randrange(256), luck.randrange(256))) for _ in range(24)]
    processor = AutoProcessor.from_pretrained(eyes, local_files_only=True)
    model = AutoModelForImageTextToText.from_pretrained(eyes, local_files_only=True).eval()
    text = processor.tokenizer.decode(processor.tokenizer("<image>You see things. Is it red? answer :")["input_ids"])
    likelier = []
    for image in images:
        inputs = processor(text=text, images=Image.open(io.BytesIO(image)), return_tensors="pt")
        with torch.inference_mode():
            chances = model(**inputs).logits[0, -1].softmax(0)
        likelier.append("yes" if chances[WORDS.index("yes")] > chances[WORDS.index("no")] else "no")
    answers, _ = seen_by(local(eyes, tmp_path / "c.sqlite"), [about(image) for image in images])
    assert [answer.value for answer in answers] == [{"answer": word} for word in likelier]
    assert set(likelier) == {"yes", "no"}


def test_a_question_that_the_model_cannot_take_is_a_reason(eyes: Path, tmp_path: Path) -> None:
    spec = local(eyes, tmp_path / "c.sqlite")
    too_long, not_taken = about(RED, user="red " * 100), about(RED, user="is <image> red?")
    answers, _ = seen_by(spec, [too_long, not_taken])
    assert [(answer.reason, answer.lost) for answer in answers] == [
        ("prompt_too_long", False),
        ("question_not_taken", False),
    ]


def test_a_free_answer_is_refused_in_one_line(eyes: Path, tmp_path: Path) -> None:
    with pytest.raises(LlmError, match="found a question with a free answer, expected one with a fixed set") as caught:
        seen_by(local(eyes, tmp_path / "c.sqlite"), [Ask("test", "s", "u", WORD, 0, (RED,))])
    assert "\n" not in str(caught.value)


def test_words_that_begin_alike_are_refused(eyes: Path, tmp_path: Path) -> None:
    alike = choice_schema("answer", ("yes it is", "yes it was"))
    with pytest.raises(LlmError, match="found no tokens that tell yes it is from yes it was"):
        seen_by(local(eyes, tmp_path / "c.sqlite"), [Ask("test", "s", "u", alike, 0, (RED,))])


def test_a_folder_without_a_model_that_sees_is_refused_in_one_line(tmp_path: Path) -> None:
    """A CLIP has eyes and reads, and says nothing."""
    with pytest.raises(LlmError, match="found no vision-language model that transformers can load") as caught:
        seen_by(local(home() / "sandbox" / "models" / "clip", tmp_path / "c.sqlite"), [about(RED)])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["config.json", "processor_config.json", "tokenizer_config.json"])
def test_a_folder_that_asks_for_code_is_refused(name: str, eyes: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(eyes, bad)
    config = json.loads((bad / name).read_text())
    (bad / name).write_text(json.dumps(config | {"auto_map": {"AutoProcessor": "mine.Mine"}}))
    with pytest.raises(ValueError, match=r"'auto_map' in .* remote code is never loaded"):
        seen_by(local(bad, tmp_path / "c.sqlite"), [about(RED)])
