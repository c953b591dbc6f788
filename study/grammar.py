"""Multiple-choice items in English grammar: two ways to go on, of which one is right.

Minimal pairs in the manner of BLiMP (Warstadt et al. 2020, arXiv 1912.00582), from templates and word lists of our own,
so that a file of them can be made anywhere.
"""

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

PEOPLE = (
    ("teacher", "teachers"),
    ("boy", "boys"),
    ("nurse", "nurses"),
    ("king", "kings"),
    ("farmer", "farmers"),
    ("doctor", "doctors"),
    ("child", "children"),
    ("woman", "women"),
)
THINGS = (
    ("key", "keys"),
    ("picture", "pictures"),
    ("letter", "letters"),
    ("box", "boxes"),
    ("book", "books"),
    ("window", "windows"),
    ("knife", "knives"),
    ("wheel", "wheels"),
)
PLACES = (("house", "houses"), ("garden", "gardens"), ("school", "schools"), ("ship", "ships"))
ENDINGS = ("very old.", "not here.", "still missing.", "quite famous.")
DETERMINERS = (("this", "these"), ("that", "those"))
ADJECTIVES = ("old", "small", "broken", "red")
PARTICIPLES = (
    ("written", "wrote"),
    ("taken", "took"),
    ("broken", "broke"),
    ("stolen", "stole"),
    ("hidden", "hid"),
    ("forgotten", "forgot"),
    ("chosen", "chose"),
    ("thrown", "threw"),
)
SUBJECTS = (
    ("The boys", "themselves", "himself"),
    ("The queen", "herself", "themselves"),
    ("My uncle", "himself", "themselves"),
    ("Her sisters", "themselves", "herself"),
    ("The two kings", "themselves", "himself"),
    ("Your mother", "herself", "himself"),
)
ADVERBS, ACTIONS = ("never", "often", "always", "suddenly"), ("hurt", "blamed", "admired", "washed", "introduced")


@dataclass(frozen=True)
class Pair:
    """A beginning with a right and a wrong way to go on."""

    context: str
    right: str
    wrong: str


def across_a_noun() -> Iterator[Pair]:
    """A verb agrees with its subject, not with the noun before it."""
    for thing, place, number, ending in itertools.product(THINGS, PLACES, (0, 1), ENDINGS):
        verb, other = ("is", "are") if number == 0 else ("are", "is")
        yield Pair(f"The {thing[number]} in the {place[1 - number]}", f"{verb} {ending}", f"{other} {ending}")


def across_a_clause() -> Iterator[Pair]:
    """The same with a relative clause between the two."""
    for (noun, other), number, ending in itertools.product(itertools.permutations(PEOPLE, 2), (0, 1), ENDINGS):
        verb, wrong = ("was", "were") if number == 0 else ("were", "was")
        yield Pair(f"The {noun[number]} that the {other[1 - number]} liked", f"{verb} {ending}", f"{wrong} {ending}")


def determiners() -> Iterator[Pair]:
    """A noun agrees with its determiner, an adjective between the two."""
    for thing, number, determiner, adjective in itertools.product(THINGS, (0, 1), DETERMINERS, ADJECTIVES):
        context = f"Nobody wanted to look at {determiner[number]} {adjective}"
        yield Pair(context, f"{thing[number]} again.", f"{thing[1 - number]} again.")


def participles() -> Iterator[Pair]:
    """A passive takes the participle, not the past tense."""
    for thing, (right, wrong), person in itertools.product(THINGS, PARTICIPLES, PEOPLE):
        yield Pair(f"The {thing[0]} was", f"{right} by the {person[0]}.", f"{wrong} by the {person[0]}.")


def reflexives() -> Iterator[Pair]:
    """A reflexive pronoun agrees with its subject."""
    for (subject, right, wrong), adverb, action in itertools.product(SUBJECTS, ADVERBS, ACTIONS):
        yield Pair(f"{subject} {adverb} {action}", f"{right}.", f"{wrong}.")


PHENOMENA = (across_a_noun, across_a_clause, determiners, participles, reflexives)


def items(each: int) -> list[dict[str, object]]:
    """So many items of each phenomenon, the same ones every time; the right choice is the first of every other one."""
    rng = random.Random(0)
    pairs = [pair for phenomenon in PHENOMENA for pair in rng.sample(list(phenomenon()), each)]
    return [_item(pair, number % 2) for number, pair in enumerate(pairs)]


def _item(pair: Pair, answer: int) -> dict[str, object]:
    choices = [pair.right, pair.wrong] if answer == 0 else [pair.wrong, pair.right]
    return {"context": pair.context, "choices": choices, "answer": answer}
