"""A class name as it stands in an English sentence: "a tiger shark", "an oboe", "sunglasses", "red wine"; pure.

In: a name, or a meaning such as "crane, the bird". Out: the same with the article that it needs. On disk: nothing.

The article follows the sound: an hour, a unicycle, an SUV. Names of several things and of what cannot be counted have
none. Which those are is told by the last word before a comma, a bracket or a preposition: "pair of jeans" is a pair.
"""

import re
from functools import lru_cache


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_DETERMINERS = frozenset(("a", "an", "the", "one", "two", "three", "some", "several", "many", "another"))
_OWNER = re.compile(r"[A-Z][a-z-]+['’]s")
# Where the head of a name ends: "comic book, a magazine", "kite (bird of prey)", "hen of the woods".
_AFTER_HEAD = re.compile(
    r"\s*[,(/]|\s+(?:of|with|in|on|for|from|without|and|or|that|which|who|whose|used|worn|having|"
    r"consisting|to|by|at|à|de|des|du|di|al|con)\s+",
    re.IGNORECASE,
)
# What cannot be counted, by the last word of the name's head.
_MASS = _words("""
    wine espresso coffee tea milk water beer juice cider eggnog cocoa rum whiskey vodka champagne lemonade
    broccoli spinach lettuce corn rice wheat barley hay straw grass moss rapeseed parsley basil kale celery garlic
    guacamole consomme dough bread butter cheese cream yogurt chocolate syrup honey jam sugar salt flour sauce hummus
    carbonara bolognese spaghetti pasta lasagna macaroni ravioli gnocchi risotto paella sushi sashimi ramen pho soup
    bibimbap ceviche calamari tartare carpaccio edamame tiramisu poutine kimchi tempura escargots bisque chowder toast
    pudding mousse meat beef pork bacon ham baklava
    wool velvet fabric silk cotton cloth leather lace denim mail armor armour clothing footwear jewelry jewellery
    paper sunscreen lotion spray powder perfume makeup soap toothpaste packaging furniture equipment luggage
    music graffiti traffic snow ice rain sand mud smoke fire dust foam
""")
# The same, by the whole name: its last word alone would be counted.
_MASS_HEADS = frozenset(("foie gras", "frozen yogurt", "fried rice", "fish and chips", "garlic bread", "french toast"))
# Words in s that are of one thing, or that have no plural of their own, beside those in ss, us and is.
_SINGULAR = re.compile(
    r".*(?:ss|us|is|ias|'s)|lens|gas|christmas|atlas|canvas|pampas|rhinoceros|albatros|asparagus|series|species|"
    r"triceratops|cyclops|gallows|crossroads|mercedes|pyrenees|flandres|biceps|triceps|james|charles|texas|molasses"
)
# Plurals that do not end in s.
_PLURAL = _words("people men women children feet teeth geese mice oxen dice cattle police")
_VOWEL_SOUND = re.compile(
    r"(?!eu|ew|one\b|once\b|ouija|uni(?!n[fijktuv]|m[ap])|us[aeiu]|uk[ru]|ur[aeiou]|ut[ei]|uakari|u-)[aeiou]|"
    r"hour|heir|honest|hono(?:u)?r",
    re.IGNORECASE,
)
_SPELLED_AN = frozenset("AEFHILMNORSX8")
_INITIALS = re.compile(r"(?!RAM\b|GEO\b)[A-Z](?![a-z'])[A-Z0-9]*")  # letters that are said one by one


@lru_cache(maxsize=65_536)
def noun_phrase(name: str) -> str:
    """`name` with the article it needs.

    There is none before an article, a number word or an owner ("Geoffroy's spider monkey").
    """
    words = name.split()
    if (
        not words
        or words[0].casefold() in _DETERMINERS
        or _OWNER.fullmatch(words[0])
        or is_plural(name)
        or is_mass(name)
    ):
        return name
    return f"{article(name)} {name}"


def article(text: str) -> str:
    """ "a" or "an", as the sound of the first word wants."""
    first = next(iter(text.lstrip("\"'“‘( ").split()), "")
    return "an" if _begins_with_vowel(first) else "a"


def is_plural(name: str) -> bool:
    """Whether a name is of several things: "sunglasses", "mashed potatoes"."""
    last = _last_word(name)
    if last in _PLURAL:
        return True
    return last.endswith("s") and len(last) > 3 and _SINGULAR.fullmatch(last) is None


def is_mass(name: str) -> bool:
    """Whether a name is of what cannot be counted: "red wine", "wool"."""
    return " ".join(name.casefold().split()) in _MASS_HEADS or _last_word(name) in _MASS


def _head(name: str) -> str:
    whole = " ".join(name.split())
    return _AFTER_HEAD.split(whole, maxsplit=1)[0] or whole


def _last_word(name: str) -> str:
    words = re.findall(r"[^\W\d_]+(?:['’][^\W\d_]+)?", _head(name))
    return words[-1].casefold() if words else ""


def _begins_with_vowel(word: str) -> bool:
    spelled = _INITIALS.match(word)
    if spelled and (len(spelled[0]) < 4 or not re.search("[AEIOU]", spelled[0][1:])):
        return spelled[0][0] in _SPELLED_AN
    number = re.match(r"[0-9]+", word)
    if number:
        return number[0].startswith("8") or number[0] in ("11", "18") or bool(re.fullmatch("1[18][0-9]{3}", number[0]))
    return _VOWEL_SOUND.match(word) is not None
