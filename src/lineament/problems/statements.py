"""Labelled true/false statements for fine-tuning small language models, and their division into splits.

Each task is the full pool of one kind of short statement, always in the same order. Every template, place,
word, category and (to within one) number stands equally often in true and in false statements, so that none of
them alone gives the label away. To add a task, write one function and one line in `STATEMENT_TASKS`.
"""

from __future__ import annotations

import bisect
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np

from lineament.errors import InputError

MIN_TRAIN = 200
"""Fewest training statements that `split` leaves."""
MIN_TRAIN_UNLABELLED = 32
"""Fewest training examples that `split_by_group` leaves."""


@dataclass(frozen=True)
class Statement:
    """A sentence that is true or false.

    Attributes:
        text: the sentence with its full stop, such as "Paris is in France."
        label: whether it is true.
        group: what it is about; the statements of one group never fall in different splits.
    """

    text: str
    label: bool
    group: str


class Labelled(Protocol):
    """What `split` divides: a statement, or another example with a text, a label and a group."""

    @property
    def text(self) -> str:
        """Shown to the model; no two examples of a pool have the same."""

    @property
    def label(self) -> bool:
        """Splits hold both labels equally often."""

    @property
    def group(self) -> str:
        """Examples of one group never fall in different splits."""


class Grouped(Protocol):
    """What `split_by_group` divides."""

    @property
    def group(self) -> str:
        """Examples of one group never fall in different splits."""


T = TypeVar("T")
G = TypeVar("G", bound=Grouped)


@dataclass(frozen=True)
class Splits(Generic[T]):
    """A pool divided by groups; each part is in random order, and of labelled examples balanced to within one."""

    train: tuple[T, ...]
    validation: tuple[T, ...]
    evaluation: tuple[T, ...]
    held_out: tuple[T, ...]


def numbers() -> list[Statement]:
    """Order of a one-digit and a two-digit number, "47 is above 3."; a group is the unordered pair.

    Each pair comes with one of the two words, in both orders: one is true and one is false. No number, nor a number in
    its place, gives the label away: every one is as often set above as below.
    """
    pool = []
    for low, high in itertools.product(range(2, 10), range(10, 100)):
        above = (low + high) % 2 == 0
        word, group = "above" if above else "below", f"{low} {high}"
        pool.append(Statement(f"{high} is {word} {low}.", above, group))
        pool.append(Statement(f"{low} is {word} {high}.", not above, group))
    return pool


# As many good as bad ones, none of which depends on whom or what it is said of.
_QUALITIES = {
    "good": "admirable affectionate amiable attentive brave brilliant calm capable careful caring charming cheerful "
    "compassionate competent considerate cooperative courageous courteous creative decent dedicated delightful "
    "dependable devoted diligent elegant enthusiastic ethical excellent fair faithful forgiving friendly generous "
    "gentle gifted graceful gracious grateful happy hardworking healthy helpful heroic honest honorable hopeful "
    "hospitable humane humble inspiring intelligent joyful just kind knowledgeable likable lovable lovely loving loyal "
    "merciful modest noble optimistic patient peaceful pleasant polite principled productive prudent punctual "
    "reasonable reliable resourceful respectful responsible sensible sincere skillful smart successful supportive "
    "sympathetic tactful talented thankful thoughtful tidy tolerant trustworthy truthful understanding unselfish "
    "upright virtuous warmhearted welcoming wise witty wonderful worthy",
    "bad": "abusive aggressive annoying arrogant awful boastful brutal bitter bossy careless clumsy corrupt "
    "cowardly crooked cruel deceitful destructive devious disgraceful dishonest disloyal disobedient disrespectful "
    "dreadful envious evil foolish fraudulent gloomy greedy grumpy harmful hateful heartless horrible hostile "
    "hurtful hypocritical ignorant immoral impolite inconsiderate incompetent inhumane insensitive insulting "
    "intolerant irresponsible irritable jealous lazy malicious manipulative mean merciless miserable murderous nasty "
    "negligent obnoxious offensive oppressive pitiless pompous quarrelsome racist reckless repulsive resentful rude "
    "ruthless sadistic selfish sinful sloppy sly sneaky snobbish spiteful stingy stupid terrible thoughtless "
    "treacherous tyrannical unfair unfaithful unfriendly ungrateful unhelpful unjust unkind unreliable vain vengeful "
    "vicious vile villainous vindictive violent wasteful wicked worthless",
}
_QUALITY_TEMPLATES = ("Being {quality} is {value}.", "It is {value} to be {quality}.", "To be {quality} is {value}.")


def qualities() -> list[Statement]:
    """Good and bad qualities, "Being honest is good."; a group is the quality."""
    pool = []
    for value, other in (("good", "bad"), ("bad", "good")):
        for quality in _QUALITIES[value].split():
            for template in _QUALITY_TEMPLATES:
                pool.append(Statement(template.format(quality=quality, value=value), True, quality))
                pool.append(Statement(template.format(quality=quality, value=other), False, quality))
    return pool


# Sixteen words per category; a capitalised word is uncountable and takes no article. The categories form a
# circle in which close ones, where a word might be argued to belong to both (tree and fruit, color and metal),
# are at most two places apart: a word is never set against those.
_CATEGORIES = {
    "an animal": "dog cat cow sheep lion tiger rabbit wolf fox pig goat monkey elephant bear deer zebra",
    "a vegetable": "carrot potato onion cabbage Lettuce Spinach Broccoli Garlic Celery radish turnip leek "
    "beet Asparagus Kale parsnip",
    "a fruit": "apple banana grape mango melon pear pineapple strawberry raspberry papaya blueberry "
    "watermelon nectarine cranberry grapefruit guava",
    "a tree": "oak pine maple birch willow elm spruce cedar poplar fir redwood sycamore aspen beech sequoia cypress",
    "a flower": "tulip daisy lily daffodil orchid sunflower carnation dahlia poppy peony pansy petunia "
    "crocus hyacinth geranium buttercup",
    "a color": "Red Blue Green Yellow Purple Brown Black White Gray Pink Beige Crimson Magenta Maroon Scarlet Cyan",
    "a metal": "Iron Gold Silver Copper Steel Aluminum Zinc Nickel Tin Lead Titanium Platinum Tungsten "
    "Uranium Chromium Lithium",
    "a tool": "hammer saw hacksaw wrench axe shovel rake chisel crowbar trowel spade mallet hatchet pickaxe "
    "sickle chainsaw",
    "an instrument": "piano guitar violin drum flute trumpet cello harp clarinet saxophone trombone banjo "
    "tuba oboe xylophone accordion",
    "a vehicle": "car bus truck train bicycle motorcycle van taxi tram scooter airplane helicopter "
    "ambulance minivan limousine ferry",
    "furniture": "chair table sofa couch desk bed bookcase wardrobe dresser stool bench armchair cupboard "
    "nightstand bookshelf cabinet",
    "clothing": "shirt dress coat jacket sweater skirt hat scarf sock glove blouse hoodie vest cardigan mitten kimono",
    "a sport": "Tennis Soccer Football Basketball Baseball Hockey Golf Rugby Volleyball Boxing Swimming "
    "Badminton Wrestling Lacrosse Softball Karate",
    "a drink": "Water Milk Coffee Tea Juice Beer Brandy Lemonade Cola Lager Whiskey Vodka Cider Rum Soda Tequila",
}
_WORD_TEMPLATES = ("{} is {}.", "{} is a kind of {}.", "{} counts as {}.")


def words() -> list[Statement]:
    """Membership in a category, "A dog is an animal."; a group is the word.

    The false statements of a word name three categories at least three places away on the circle of categories.
    """
    categories, pool = list(_CATEGORIES), []
    n_far = len(categories) - 5
    for c, (category, line) in enumerate(_CATEGORIES.items()):
        for i, word in enumerate(line.split()):
            article = "" if word[0].isupper() else "An " if word[0] in "aeiou" else "A "
            for t, template in enumerate(_WORD_TEMPLATES):
                other = categories[(c + 3 + (i + 3 * t) % n_far) % len(categories)]
                for name, label in ((category, True), (other, False)):
                    shown = name.split()[-1] if "kind of" in template else name
                    pool.append(Statement(template.format(article + word, shown), label, word.lower()))
    return pool


STATEMENT_TASKS: dict[str, Callable[[], list[Statement]]] = {
    "numbers": numbers,
    "qualities": qualities,
    "words": words,
}


def split(pool: Sequence[Labelled], n_evaluation: int, generator: np.random.Generator) -> Splits[Labelled]:
    """Divide a pool by groups, in an order drawn from `generator`, into three fixed sets and the training set.

    Validation, evaluation and held-out have exactly `n_evaluation` statements each, as many true as false (one
    more false if odd); the training set is what the other groups hold, less the surplus of one label. Equal
    pools, sizes and generator states give equal splits.

    Raises:
        InputError: `n_evaluation` is below 1, a text comes twice, or the pool is too small to leave `MIN_TRAIN`
            statements for training; the message then says which size is possible.
    """
    if n_evaluation < 1:
        raise InputError(f"task.evaluation_examples is {n_evaluation}; give at least 1 statement per set.")
    n_times = Counter(statement.text for statement in pool)
    if len(n_times) < len(pool):
        text, n = n_times.most_common(1)[0]
        raise InputError(f"the statement {text!r} is {n} times in the pool; remove all but one.")
    shuffled = [pool[i] for i in generator.permutation(len(pool))]
    splits = _divide(shuffled, n_evaluation)
    if splits is None:
        sizes = range(1, n_evaluation)
        possible = bisect.bisect_left(sizes, True, key=lambda n: _divide(shuffled, n) is None)
        advice = f"At most {possible} are possible: set task.evaluation_examples={possible} or lower."
        if not possible:
            advice = "No size is possible: use a task with more statements (of both labels, in more groups)."
        raise InputError(
            f"{n_evaluation} statements in each of validation, evaluation and held-out, and {MIN_TRAIN} or more "
            f"for training, do not fit in a pool of {len(pool)} statements in "
            f"{len({statement.group for statement in pool})} groups. {advice}"
        )
    return splits


def split_by_group(pool: Sequence[G], n_evaluation: int, generator: np.random.Generator) -> Splits[G]:
    """Divide a pool without labels: whole groups, in a random order, go to the sets one after the other.

    Validation, evaluation and held-out have exactly `n_evaluation` examples each; what is left over of their last group
    is in no set, and the other groups are the training set.

    Raises:
        InputError: the pool is too small to leave `MIN_TRAIN_UNLABELLED` examples for training; the message says which
            size is possible.
    """
    groups: dict[str, list[G]] = {}
    for example in pool:
        groups.setdefault(example.group, []).append(example)
    order = [list(groups.values())[i] for i in generator.permutation(len(groups))]
    splits = _by_group(order, n_evaluation, generator)
    if splits is None:
        sizes = range(1, n_evaluation)
        possible = bisect.bisect_left(sizes, True, key=lambda n: _by_group(order, n, generator) is None)
        advice = f"At most {possible} are possible: set task.evaluation_examples={possible} or lower."
        raise InputError(
            f"{n_evaluation} examples in each of validation, evaluation and held-out, and {MIN_TRAIN_UNLABELLED} or "
            f"more for training, do not fit in {len(pool)} examples in {len(groups)} groups. "
            f"{advice if possible else 'No size is possible: give more data.'}"
        )
    return splits


def _by_group(order: Sequence[list[G]], n_evaluation: int, generator: np.random.Generator) -> Splits[G] | None:
    left, fixed = iter(order), list[tuple[G, ...]]()
    for _ in range(3):
        taken: list[G] = []
        for group in left:
            taken += group
            if len(taken) >= n_evaluation:
                break
        fixed.append(tuple(taken[:n_evaluation]))
    train = list(itertools.chain.from_iterable(left))
    if len(fixed[-1]) < n_evaluation or len(train) < MIN_TRAIN_UNLABELLED:
        return None
    return Splits(tuple(train[i] for i in generator.permutation(len(train))), *fixed)


def _divide(shuffled: Sequence[Labelled], n_evaluation: int) -> Splits[Labelled] | None:
    """Split a pool in random order, groups taken as they first appear; None if it is too small."""
    by_group: dict[str, list[Labelled]] = {}
    for statement in shuffled:
        by_group.setdefault(statement.group, []).append(statement)
    groups = iter(by_group.values())
    n_true, n_false = n_evaluation // 2, n_evaluation - n_evaluation // 2
    fixed = [_take(groups, n_true, n_false) for _ in range(3)]
    rest = list(itertools.chain.from_iterable(groups))
    n_each = min(sum(s.label for s in rest), sum(not s.label for s in rest))
    if any(part is None for part in fixed) or 2 * n_each < MIN_TRAIN:
        return None
    parts = [_balanced(shuffled, part, n_true, n_false) for part in fixed if part is not None]
    return Splits(_balanced(shuffled, rest, n_each, n_each), *parts)


def _take(groups: Iterator[list[Labelled]], n_true: int, n_false: int) -> list[Labelled] | None:
    """Take whole groups until they hold enough statements of both labels; None if they never do."""
    taken: list[Labelled] = []
    for group in groups:
        taken += group
        n_true -= sum(statement.label for statement in group)
        n_false -= sum(not statement.label for statement in group)
        if n_true <= 0 and n_false <= 0:
            return taken
    return None


def _balanced(
    shuffled: Sequence[Labelled], members: Sequence[Labelled], n_true: int, n_false: int
) -> tuple[Labelled, ...]:
    """Return the first `n_true` true and `n_false` false statements of `members`, in the shuffled order."""
    left, inside, chosen = {True: n_true, False: n_false}, set(members), []
    for statement in shuffled:
        if statement in inside and left[statement.label]:
            left[statement.label] -= 1
            chosen.append(statement)
    return tuple(chosen)
