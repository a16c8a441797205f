"""The queries of docs/examples.md, and which pictures count as right.

Written down before the first result was seen. Nothing was added, left out or reworded since: to
change the list is to choose what the page shows.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Term:
    """A text, or the sample picture of this name."""

    text: str = ""
    picture: str = ""
    weight: float = 1.0


@dataclass(frozen=True)
class ExampleQuery:
    """``right`` are the names of the pictures of which the first should be one; none if nothing
    should be found."""

    terms: tuple[Term, ...]
    right: tuple[str, ...]
    filter: str = ""
    auto_cut: bool = False


def _text(text: str, *right: str) -> ExampleQuery:
    return ExampleQuery((Term(text),), right)


def _picture(name: str, *right: str) -> ExampleQuery:
    return ExampleQuery((Term(picture=name),), right)


_BIRDS = (
    *("baby chick", "bird", "black bird", "chicken", "dodo", "dove", "duck", "eagle", "flamingo"),
    *("front-facing baby chick", "goose", "hatching chick", "owl", "parrot", "peacock", "rooster"),
    *("swan", "turkey"),
)
_FRUIT_NOT_RED = (
    *("avocado", "banana", "blueberries", "coconut", "grapes", "green apple", "kiwi fruit"),
    *("lemon", "lime", "mango", "melon", "olive", "pear", "pineapple", "tangerine"),
)

GROUPS: dict[str, tuple[ExampleQuery, ...]] = {
    "Texts": (
        _text("something to open a door with", "key", "old key"),
        _text("an animal with a very long neck", "giraffe"),
        _text("a drink for a cold morning", "hot beverage", "teacup without handle", "teapot"),
        _text(
            "somebody who is very angry",
            *("angry face", "angry face with horns", "enraged face"),
            *("face with symbols on mouth", "pouting cat"),
        ),
        _text("where children learn", "school"),
        _text("a dog wearing a vest", "service dog"),
        _text("two hearts", "two hearts"),
        _text("the number ten", "keycap: 10"),
        _text("time to wake up", "alarm clock"),
        _text("a blue flower", "hyacinth"),
        _text("no bicycles allowed", "no bicycles"),
        _text("an arrow pointing left", "left arrow"),
        _text("a woman who repairs cars", "woman mechanic"),
    ),
    "Mixes of pictures and texts": (
        ExampleQuery((Term(picture="cat"), Term("tired")), ("weary cat",)),
        ExampleQuery((Term(picture="cow"), Term("a face")), ("cow face",)),
        ExampleQuery((Term("a bird"), Term("at night")), ("owl",)),
        ExampleQuery((Term(picture="red heart"), Term("blue")), ("blue heart", "light blue heart")),
    ),
    "Like this, but without that": (
        ExampleQuery((Term("fruit"), Term("red", weight=-0.5)), _FRUIT_NOT_RED),
        ExampleQuery(
            (Term("a cat"), Term("a face", weight=-0.5)), ("black cat", "cat", "leopard", "tiger")
        ),
        ExampleQuery(
            (Term("music"), Term("an instrument", weight=-0.5)),
            ("headphone", "musical note", "musical notes", "musical score", "radio"),
        ),
        ExampleQuery(
            (Term(picture="person running"), Term("a person", weight=-1.0)), ("running shoe",)
        ),
    ),
    "Pictures": (
        _picture("guitar", "banjo", "violin"),
        _picture("red apple", "green apple"),
        _picture("penguin", *_BIRDS),
        _picture("hospital", "bank", "convenience store", "hotel", "post office", "school"),
    ),
    "With a filter": (
        ExampleQuery(
            (Term("green, white and red"),),
            ("flag: Bulgaria", "flag: Hungary", "flag: Iran", "flag: Italy", "flag: Mexico"),
            filter='name starts with "flag: "',
        ),
        ExampleQuery(
            (Term("a dragon"),),
            ("flag: Bhutan", "flag: Wales"),
            filter='name starts with "flag: "',
        ),
        ExampleQuery(
            (Term("a red circle on white"),),
            ("red circle",),
            filter='not name starts with "flag: "',
        ),
    ),
    "Nothing to be found, with auto-cut": (
        ExampleQuery((Term("the French revolution of 1789"),), (), auto_cut=True),
        ExampleQuery((Term("a photograph of Albert Einstein"),), (), auto_cut=True),
        ExampleQuery((Term("qwzx vbnm plkj"),), (), auto_cut=True),
    ),
}
