"""What the finished model is asked, and which pictures a person would accept as right.

Written before the first result was seen. A right picture is given by its CLDR name, in which
``*`` stands for anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

# No phrase that the text tower learned from came inside one of these (compare phrases.CARRIERS).
HELD_OUT_CARRIERS = (
    "a photo of a {}",
    "show me the {}",
    "a nice sticker with a {} on it",
    "can you find a picture with {}?",
)


@dataclass(frozen=True)
class Query:
    """A text, and the names that answer it."""

    text: str
    right: tuple[str, ...]

    def accepts(self, name: str) -> bool:
        """Whether a person would call the picture of this name right."""
        return any(fnmatchcase(name, right) for right in self.right)


# Whole phrases as somebody would type them. Scored by: is a right picture among the first three?
FREE_QUERIES = (
    Query("a black cat", ("black cat",)),
    Query(
        "heavy rain",
        (
            "cloud with rain",
            "cloud with lightning and rain",
            "sun behind rain cloud",
            "umbrella with rain drops",
        ),
    ),
    Query("slice of pizza", ("pizza",)),
    Query(
        "happy birthday",
        (
            "birthday cake",
            "party popper",
            "partying face",
            "wrapped gift",
            "balloon",
            "confetti ball",
        ),
    ),
    Query("someone crying", ("crying face", "loudly crying face", "crying cat")),
    Query("a red car", ("automobile", "oncoming automobile", "racing car")),
    Query("flag of japan", ("flag: Japan",)),
    Query(
        "a man riding a bike",
        ("man biking", "person biking", "man mountain biking", "person mountain biking"),
    ),
    Query("a rocket flying to space", ("rocket",)),
    Query(
        "fresh fruit",
        (
            "red apple",
            "green apple",
            "grapes",
            "melon",
            "watermelon",
            "tangerine",
            "lemon",
            "banana",
            "pineapple",
            "mango",
            "pear",
            "peach",
            "cherries",
            "strawberry",
            "blueberries",
            "kiwi fruit",
            "coconut",
        ),
    ),
    Query("a broken heart", ("broken heart",)),
    Query("playing guitar", ("guitar",)),
)

# Single everyday words. Scored by precision among the first five (or among the first n, where
# only n pictures are right). score.py also says which of these no training keyword or name held.
SYNONYMS = (
    Query("puppy", ("dog face", "dog", "guide dog", "service dog", "poodle")),
    Query("kitty", ("cat", "cat with *", "* cat", "* cat with *", "cat face")),
    Query("sedan", ("automobile", "oncoming automobile", "taxi", "oncoming taxi")),
    Query("physician", ("health worker", "man health worker", "woman health worker")),
    Query("infant", ("baby", "baby bottle", "baby symbol", "baby angel", "breast-feeding")),
    Query("cop", ("police officer", "man police*", "woman police*", "police car*",
                  "oncoming police*")),
    Query("spectacles", ("glasses", "sunglasses", "goggles")),
    Query("burger", ("hamburger",)),
    Query("jewelry", ("gem stone", "ring", "crown", "prayer beads")),
    Query("lorry", ("delivery truck", "articulated lorry", "pickup truck")),
    Query("sofa", ("couch and lamp",)),
    Query("reptile", ("snake", "lizard", "turtle", "crocodile", "dragon", "T-Rex", "sauropod")),
    Query(
        "insect",
        ("bug", "ant", "honeybee", "lady beetle", "cricket", "cockroach", "mosquito", "fly",
         "beetle", "butterfly"),
    ),
    Query(
        "snowfall",
        ("cloud with snow", "snowflake", "snowman", "snowman without snow",
         "snow-capped mountain"),
    ),
    Query("marriage", ("wedding", "ring", "person with veil", "woman with veil",
                       "man with veil", "person in tuxedo", "couple with heart*")),
    Query("timepiece", ("watch", "mantelpiece clock", "alarm clock", "timer clock", "stopwatch",
                        "*o\u2019clock", "*thirty")),
    Query("airliner", ("airplane", "small airplane", "airplane departure", "airplane arrival")),
    Query("beverage", ("cup with straw", "beverage box", "tropical drink", "beer mug",
                       "clinking beer mugs", "wine glass", "cocktail glass", "hot beverage",
                       "glass of milk", "bubble tea", "teacup without handle", "tumbler glass",
                       "clinking glasses", "sake", "mate", "teapot", "bottle with popping cork")),
    Query("joyful", ("grinning*", "beaming face*", "smiling face", "smiling face with smiling eyes",
                     "smiling face with hearts", "smiling face with heart-eyes",
                     "smiling face with open hands", "face with tears of joy",
                     "rolling on the floor laughing", "partying face")),
    Query("seashore", ("beach with umbrella", "water wave", "spiral shell", "desert island")),
)  # fmt: skip
