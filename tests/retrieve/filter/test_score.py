"""CLIP scores: the mean of a class's texts before they are normalised, the cosine with the picture's own class."""

import numpy as np
import pytest

from gen.model.clip import Clip, ClipSpec
from retrieve.filter.score import class_rows, scores_of
from shards.disk.home import home
from tests.support.picture_set import scenes

TEMPLATES = ("a photo of {name}.", "a bad drawing of {name}, by moonlight, in blue ink")
NAMES = {3: "three, a written digit", 7: "seven, the face of a die"}


@pytest.fixture(scope="module")
def clip():
    return Clip.load(ClipSpec(model=str(home() / "sandbox" / "models" / "clip"), device="cpu"))


def test_the_features_of_texts_have_the_direction_of_their_vectors_and_the_lengths_of_the_model(clip):
    texts = ["a die", "a photo of three"]
    features = clip.text_features(texts)
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    assert abs(lengths - 1).min() > 0.01
    np.testing.assert_allclose(features / lengths, clip.embed_texts(texts), atol=1e-6)


@pytest.mark.parametrize("unit_texts", [False, True])
def test_a_class_is_the_mean_of_its_texts_normalised_after_it(clip, unit_texts):
    found = class_rows(clip, NAMES, TEMPLATES, unit_texts)
    for class_id, name in NAMES.items():
        texts = [template.replace("{name}", name) for template in TEMPLATES]
        mean = (clip.embed_texts(texts) if unit_texts else clip.text_features(texts)).mean(axis=0)
        np.testing.assert_allclose(found[class_id], mean / np.linalg.norm(mean), atol=1e-6)


def test_texts_of_other_lengths_make_the_two_means_differ(clip):
    plain, unit = (class_rows(clip, NAMES, TEMPLATES, unit_texts)[3] for unit_texts in (False, True))
    assert np.abs(plain - unit).max() > 1e-5


def test_a_score_is_the_cosine_with_the_text_of_the_own_class(clip):
    images = clip.embed_images(scenes(3))
    rows = class_rows(clip, NAMES)
    found = scores_of(images, np.array([7, 3, 7]), rows)
    np.testing.assert_allclose(found, [images[0] @ rows[7], images[1] @ rows[3], images[2] @ rows[7]], atol=1e-6)


def test_a_row_of_zeros_has_no_score():
    assert np.isnan(scores_of(np.zeros((1, 2)), np.array([0]), {0: np.array([1, 0], np.float32)})).all()


@pytest.mark.parametrize(
    ("rows", "words"),
    [({1: np.ones(2, np.float32)}, "class 0, expected those of the texts"), ({0: np.ones(3, np.float32)}, "one CLIP")],
)
def test_a_class_without_a_text_and_vectors_of_another_model_are_refused(rows, words):
    with pytest.raises(ValueError, match=words):
        scores_of(np.ones((1, 2)), np.array([0]), rows)


@pytest.mark.parametrize(("templates", "words"), [((), "found none"), (("a photo",), "'a photo', expected a text")])
def test_templates_without_a_place_for_the_name_are_refused(clip, templates, words):
    with pytest.raises(ValueError, match=words):
        class_rows(clip, NAMES, templates)
