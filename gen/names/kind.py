"""What kind of thing a class is, so that its context fits: no violin in a misty marsh.

In: a class, and its meaning if one was chosen. Out: one of KINDS. On disk: reads the table of WordNet's names and
definitions in the installed timm; timm is not imported.

WordNet 3.0 numbers its nouns by subject: animals, then artifacts, food, landscapes, persons, plants. So the id gives
the subject. For an artifact the first words of its definition give the kind ("a small motor vehicle with ..."). A class
without an id is looked up by its meaning, then by its name.
"""

import re
from collections.abc import Iterator, Mapping
from functools import cache

from shards.labels.classes import Class, Kind
from shards.labels.imagenet import package_folder, wordnet_lemmas
from shards.labels.text_file import read_lines


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


# WordNet's noun offsets: the first, the one after the last, the kind of those between. All others are "other".
_RANGES: tuple[tuple[int, int, Kind | None], ...] = (
    (15_388, 15_389, "animal"),
    (17_222, 17_223, "plant"),
    (21_265, 21_266, "food"),
    (1_313_000, 2_664_000, "animal"),
    (2_664_000, 4_620_000, None),  # artifacts: by their definition
    (7_555_000, 7_939_000, "food"),
    (9_186_000, 9_483_000, "building"),
    (11_529_000, 13_240_000, "plant"),
)
# Ids whose pictures do not show what the definition says, or whose definition says too little.
_EXCEPTIONS: Mapping[str, Kind] = {
    "n02782093": "vehicle",  # balloon: "large tough nonrigid bag filled with gas or heated air"
    "n02797295": "other",  # barrow: "a cart for carrying small loads"
    "n02843684": "other",  # birdhouse: "a shelter for birds"
    "n02892201": "other",  # brass: "a memorial made of brass"
    "n02966193": "building",  # carousel
    "n03126707": "building",  # crane, the machine
    "n03240683": "building",  # drilling rig
    "n03290653": "other",  # entertainment center: "a wall unit"
    "n03355925": "building",  # flagpole
    "n03529860": "other",  # home theater
    "n03902125": "other",  # pay-station
    "n04044716": "building",  # radio telescope
    "n04204347": "other",  # shopping cart
    "n04258138": "building",  # solar dish
    "n04344873": "other",  # studio couch: "convertible consisting of an upholstered couch"
    "n04458633": "building",  # totem pole
    "n04501370": "other",  # turnstile: "a gate"
    "n06794110": "building",  # street sign: stands among buildings
    "n06874185": "building",  # traffic light
    "n07565083": "other",  # menu: "the dishes making up a meal"; the pictures show the card
    "n09229709": "other",  # bubble: numbered among landscapes
}
# Fodder is numbered among food.
_NO_FOOD = {"fodder", "feed", "grass"}
# Common names whose first sense in WordNet's order is a rare one, or that are not in the table.
_PLAIN_NAMES: Mapping[str, Kind] = {
    **dict.fromkeys(_words("bowl can cup dish man plate table tray"), "other"),
    **dict.fromkeys(_words("fern flower lily rose tree"), "plant"),
    **dict.fromkeys(_words("field forest hill lake river road sea sky street"), "building"),
}
# Kinds of artifacts by the noun at the head of the definition, or by the last word of the name.
_HEADS: Mapping[Kind, set[str]] = {
    "vehicle": set(
        _words(
            "vehicle car automobile motorcar truck lorry van bus minibus coach cab taxi limousine jeep trailer "
            "wagon cart carriage chariot tractor harvester locomotive train railcar tram streetcar bicycle bike "
            "tricycle motorcycle motorbike moped scooter sled sledge sleigh ship boat warship sailboat motorboat "
            "speedboat yacht ferry canoe kayak raft barge liner submarine catamaran trimaran schooner gondola "
            "aircraft airplane aeroplane jet airliner airship helicopter glider spacecraft coupe sedan suv "
            "convertible hatchback cabriolet"
        )
    ),
    "building": set(
        _words(
            "building house church temple mosque chapel cathedral monastery shrine stupa tower lighthouse "
            "skyscraper castle palace fortress barn shed hut cabin cottage dwelling residence tent shelter "
            "greenhouse boathouse stable mill shop store bakery market marketplace restaurant cinema theater "
            "theatre library museum school hospital prison institution workplace bridge viaduct aqueduct dam pier "
            "dock landing breakwater arch archway roof dome ceiling wall fence gate monument memorial megalith "
            "obelisk column fountain patio courtyard maze stadium airport station barrier reservoir"
        )
    ),
    "instrument": set(
        _words(
            "accordion banjo bassoon bell cello chordophone clarinet cornet cymbal drum fiddle flute gong guitar "
            "harmonica harp harpsichord horn lute lyre mandolin maraca marimba oboe organ piano saxophone sitar "
            "tambourine trombone trumpet tuba ukulele viola violin woodwind xylophone zither"
        )
    ),
}
_MUSICAL = re.compile(r"\b(musical|percussion|stringed|wind|woodwind|reed|brass|keyboard|bowed) instrument")
# A definition's first noun stands before any of these.
_AFTER_HEAD = re.compile(
    r"[;:,(]|\b(that|which|who|whose|where|when|with|without|of|for|in|on|at|to|by|from|as|and|or|having|consisting|"
    r"containing|made|used|usually|drawn|driven|pulled|propelled|powered|moved|equipped|housing|carrying)\b"
)


def kind_of(one: Class, meaning: str | None = None) -> Kind:
    """The kind of a class: as its list says, else by its WordNet id where the table has it, else by its meaning, else
    by its name."""
    if one.kind is not None:
        return one.kind
    if one.wordnet_id is not None and one.wordnet_id in wordnet_lemmas():
        return _kind_of_id(one.wordnet_id)
    for phrase in _phrases(one.name, meaning):
        kind = _kind_of_name(phrase)
        if kind is not None:
            return kind
    return "other"


@cache
def _definitions() -> Mapping[str, str]:
    path = package_folder("timm") / "data" / "_info" / "imagenet_synset_to_definition.txt"
    return dict(line.split("\t", 1) for line in read_lines(path) if "\t" in line)


@cache
def _kind_of_id(wordnet_id: str) -> Kind:
    if wordnet_id in _EXCEPTIONS:
        return _EXCEPTIONS[wordnet_id]
    definition = _definitions().get(wordnet_id, "")
    for first, end, kind in _RANGES:
        if first <= int(wordnet_id[1:]) < end:
            if kind is None:
                return _kind_of_artifact(wordnet_lemmas()[wordnet_id], definition)
            return "other" if kind == "food" and _NO_FOOD & set(_head(definition)) else kind
    return "other"


def _kind_of_artifact(lemmas: str, definition: str) -> Kind:
    if _MUSICAL.search(" ".join(_head(definition))):
        return "instrument"
    # the definition comes before the name: an airplane wing is "one of the horizontal airfoils"
    for words in (_head(definition), *(_words(lemma)[-1:] for lemma in lemmas.split(","))):
        for word in reversed(words):
            for kind, heads in _HEADS.items():
                if word in heads:
                    return kind
    return "other"


def _head(definition: str) -> list[str]:
    """The words of a definition up to the noun that says what it is: "a small motor vehicle"."""
    without_domain = re.sub(r"^\([^)]*\) *", "", definition)
    return _words(_AFTER_HEAD.split(without_domain, maxsplit=1)[0])


def _phrases(name: str, meaning: str | None) -> Iterator[str]:
    """Phrases to look a class up by, the best first: "crane, the bird" gives bird, then crane."""
    if meaning:
        rest = re.sub(re.escape(name), " ", meaning, flags=re.IGNORECASE)
        yield " ".join(_head(re.sub(r"^(\W|\b(the|a|an)\b)*", "", rest)))
    yield name


def _kind_of_name(phrase: str) -> Kind | None:
    """The kind by the whole phrase, by its last word, or by that word's singular; None if none of them is known."""
    words = _words(phrase)
    if not words:
        return None
    for lemma in (" ".join(words), words[-1], words[-1].removesuffix("s"), words[-1].removesuffix("es")):
        if lemma in _PLAIN_NAMES:
            return _PLAIN_NAMES[lemma]
        if lemma in _kinds_by_lemma():
            return _kinds_by_lemma()[lemma]
    for kind, heads in _HEADS.items():
        if words[-1] in heads:
            return kind
    return None


@cache
def _kinds_by_lemma() -> Mapping[str, Kind]:
    """Lemma -> kind. Of several senses the first one in WordNet's order that is not "other": a mouse is an animal."""
    kinds: dict[str, Kind] = {}
    for wordnet_id, lemmas in sorted(wordnet_lemmas().items()):
        kind = _kind_of_id(wordnet_id)
        for lemma in lemmas.split(","):
            key = " ".join(_words(lemma))
            if kinds.get(key, "other") == "other":
                kinds[key] = kind
    return kinds
