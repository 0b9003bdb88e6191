"""Statement pools are right, balanced, free of duplicates; splits share nothing and depend on the draw alone."""

from __future__ import annotations

import operator
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import fields
from itertools import combinations, product

import numpy as np
import pytest

from lineament.errors import InputError
from lineament.problems.statements import (
    MIN_TRAIN,
    STATEMENT_TASKS,
    Splits,
    Statement,
    numbers,
    qualities,
    split,
    words,
)

POOLS = {name: make() for name, make in STATEMENT_TASKS.items()}
FIXED = ("validation", "evaluation", "held_out")
every_task = pytest.mark.parametrize("task", sorted(STATEMENT_TASKS))


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


def parts_of(splits: Splits) -> dict[str, tuple[Statement, ...]]:
    return {field.name: getattr(splits, field.name) for field in fields(splits)}


def surplus(statements: Iterable[Statement]) -> int:
    """True statements minus false ones."""
    return sum(1 if statement.label else -1 for statement in statements)


def labels(pool: list[Statement]) -> dict[str, bool]:
    return {statement.text: statement.label for statement in pool}


def parsed(pool: list[Statement], *patterns: str) -> tuple[set[tuple[str, str]], set[tuple[str, str]]]:
    """(subject, object) pairs of the true and of the false statements that match one of the patterns."""
    pairs: dict[bool, set[tuple[str, str]]] = {True: set(), False: set()}
    for statement in pool:
        for pattern in patterns:
            if match := re.fullmatch(pattern, statement.text):
                pairs[statement.label].add((match["s"], match["o"]))
    return pairs[True], pairs[False]


def uneven(n_groups: int, common: bool = True) -> list[Statement]:
    """A pool with two statements of the common label and one of the other per group."""
    return [Statement(f"{g} {i}", (i < 2) is common, f"g{g}") for g in range(n_groups) for i in range(3)]


class TestPools:
    @every_task
    def test_texts_come_once_and_read_as_short_sentences(self, task: str) -> None:
        texts = [statement.text for statement in POOLS[task]]
        assert [text for text, n in Counter(texts).items() if n > 1] == []
        for text in texts:
            assert re.fullmatch(r"[A-Z0-9][A-Za-z0-9' -]*\.", text), text
            assert "  " not in text
            assert len(text.split()) <= 9, text

    @every_task
    def test_labels_are_balanced_in_the_pool_and_in_every_group(self, task: str) -> None:
        assert len(POOLS[task]) >= 900
        groups = defaultdict(list)
        for statement in POOLS[task]:
            groups[statement.group].append(statement)
        assert len(groups) >= 100
        assert np.mean([len(statement.text.split()) for statement in POOLS[task]]) < 6
        assert {surplus(group) for group in groups.values()} == {0}

    @every_task
    def test_same_pool_every_time(self, task: str) -> None:
        assert STATEMENT_TASKS[task]() == POOLS[task]

    def test_no_first_or_last_words_give_the_label_away(self) -> None:
        count: Counter[str] = Counter()
        for statement in POOLS["words"]:
            start, verb, end = re.split(r" (is|counts) ", statement.text.rstrip("."))
            for part in (f"{start} {verb}", f"{verb} {end}", verb):
                count[part] += surplus([statement])
        assert {part: n for part, n in count.items() if n} == {}

    def test_no_number_in_its_place_and_no_word_gives_the_label_away(self) -> None:
        count: Counter[str] = Counter()
        for statement in POOLS["numbers"]:
            first, _, word, second = statement.text.rstrip(".").split()
            for part in (f"first {first}", f"second {second}", word, f"{len(first)} digits first"):
                count[part] += surplus([statement])
        assert {part: n for part, n in count.items() if n} == {}

    def test_no_quality_value_or_template_gives_the_label_away(self) -> None:
        count: Counter[str] = Counter()
        for statement in POOLS["qualities"]:
            for word in re.findall(r"[A-Za-z]+", statement.text):
                count[word] += surplus([statement])
            count[re.sub(rf"\b{statement.group}\b", "", statement.text)] += surplus([statement])
        assert {part: n for part, n in count.items() if n} == {}


class TestNumbers:
    def test_every_label_is_the_comparison(self) -> None:
        compare = {"above": operator.gt, "below": operator.lt}
        for statement in numbers():
            match = re.fullmatch(r"(\d+) is (above|below) (\d+)\.", statement.text)
            assert match, statement.text
            first, second = int(match[1]), int(match[3])
            assert statement.label == compare[match[2]](first, second), statement
            assert {first, second} == set(map(int, statement.group.split()))

    def test_every_pair_of_a_one_and_a_two_digit_number_is_one_group(self) -> None:
        pairs = {tuple(map(int, statement.group.split())) for statement in numbers()}
        assert pairs == set(product(range(2, 10), range(10, 100)))


class TestQualities:
    def test_facts(self) -> None:
        known = labels(qualities())
        for good in ("honest", "kind", "generous", "polite", "brave"):
            assert known[f"Being {good} is good."]
            assert not known[f"It is bad to be {good}."]
        for bad in ("cruel", "dishonest", "greedy", "rude", "cowardly"):
            assert known[f"To be {bad} is bad."]
            assert not known[f"Being {bad} is good."]

    def test_every_quality_is_good_or_bad_in_all_its_statements(self) -> None:
        value = defaultdict(set)
        for statement in qualities():
            said = "good" if re.search(r"\bgood\b", statement.text) else "bad"
            assert re.search(rf"\b{statement.group}\b", statement.text)
            value[statement.group].add(said if statement.label else {"good": "bad", "bad": "good"}[said])
        assert Counter(len(found) for found in value.values()) == {1: len(value)}
        assert Counter(next(iter(found)) for found in value.values()) == {"good": 103, "bad": 103}


IS_A = r"(?:An? )?(?P<s>\S+) (?:is|counts as|is a kind of) (?:an? )?(?P<o>(?!a kind of)[a-z]+)\."


class TestWords:
    def test_facts(self) -> None:
        known = labels(words())
        for text in (
            "A dog is an animal.",
            "An oak is a tree.",
            "A tulip is a flower.",
            "Milk is a drink.",
            "Gold is a metal.",
            "A chair is furniture.",
            "A shirt counts as clothing.",
            "An apple is a kind of fruit.",
            "Tennis is a kind of sport.",
            "A hammer counts as a tool.",
        ):
            assert known[text], text

    def test_every_word_is_in_one_category_and_never_denied_it(self) -> None:
        true, false = parsed(words(), IS_A.replace("is|counts as|is a kind of", "is a kind of|counts as|is"))
        category = dict(true)
        assert len(true) == len(category) == len({word.lower() for word in category}) == 224
        assert set(Counter(category.values()).values()) == {16}
        assert set(category.values()) == {name for _, name in false}
        assert not true & false
        assert len(false) == 3 * len(category)

    def test_articles(self) -> None:
        for statement in words():
            for article, word in re.findall(r"\b([Aa]n?) ([a-z]+)", statement.text):
                assert (article.lower() == "an") == (word[0] in "aeiou"), statement.text
            assert not re.search(r"\b(a|an) (furniture|clothing)\b", statement.text)

    def test_close_categories_are_never_opposed(self) -> None:
        true, false = parsed(words(), IS_A.replace("is|counts as|is a kind of", "is a kind of|counts as|is"))
        category = dict(true)
        opposed = {frozenset((category[word], name)) for word, name in false}
        for close in (
            "fruit vegetable",
            "fruit tree",
            "flower tree",
            "flower color",
            "color metal",
            "metal tool",
            "tool instrument",
            "tool vehicle",
            "instrument furniture",
            "metal instrument",
        ):
            assert frozenset(close.split()) not in opposed, close
        assert frozenset(("animal", "tool")) in opposed


class TestSplit:
    @every_task
    @pytest.mark.parametrize("n", [1, 7, 64, 96])
    def test_sizes_balance_and_disjointness(self, task: str, n: int) -> None:
        for seed in range(3):
            parts = parts_of(split(POOLS[task], n, generator(seed)))
            for name in FIXED:
                assert len(parts[name]) == n
                assert abs(surplus(parts[name])) == n % 2
            assert surplus(parts["train"]) == 0
            assert len(parts["train"]) >= MIN_TRAIN == 200
            for a, b in combinations(parts.values(), 2):
                assert not {s.text for s in a} & {s.text for s in b}
                assert not {s.group for s in a} & {s.group for s in b}
            everything = [s for part in parts.values() for s in part]
            assert len(set(everything)) == len(everything)
            assert set(everything) <= set(POOLS[task])

    @every_task
    def test_all_groups_are_used_and_few_go_to_fixed_sets(self, task: str) -> None:
        parts = parts_of(split(POOLS[task], 96, generator()))
        size = max(Counter(s.group for s in POOLS[task]).values())
        n_fixed = sum(len({s.group for s in parts[name]}) for name in FIXED)
        assert n_fixed <= 3 * -(-96 // size)
        assert len({s.group for s in parts["train"]}) + n_fixed == len({s.group for s in POOLS[task]})

    @every_task
    def test_depends_on_the_generator_state_alone(self, task: str) -> None:
        pool = POOLS[task]
        first = split(pool, 20, generator(5))
        np.random.seed(1)  # noqa: NPY002  global state must not matter
        assert split(tuple(pool), 20, generator(5)) == first
        others = [split(pool, 20, generator(seed)) for seed in (6, 7)]
        used = generator(5)
        split(pool, 20, used)
        others.append(split(pool, 20, used))
        for other in others:
            for name, part in parts_of(other).items():
                assert set(part) != set(getattr(first, name)), name

    def test_splits_are_in_random_order(self) -> None:
        train = split(POOLS["qualities"], 20, generator()).train
        assert len({s.group for s in train[:50]}) > 25
        assert abs(surplus(train[: len(train) // 2])) < len(train) // 6

    def test_statement_order_within_a_cut_group_is_random(self) -> None:
        kinds = {
            re.sub(r".* (counts|kind|is) .*", r"\1", s.text)
            for seed in range(30)
            for s in split(POOLS["words"], 1, generator(seed)).evaluation
        }
        assert kinds == {"counts", "kind", "is"}

    @pytest.mark.parametrize("common", [True, False])
    def test_surplus_of_one_label_is_dropped(self, common: bool) -> None:
        parts = parts_of(split(uneven(400, common), 30, generator()))
        assert {name: len(part) for name, part in parts.items() if name != "train"} == dict.fromkeys(FIXED, 30)
        assert {surplus(part) for part in parts.values()} == {0}
        assert len(parts["train"]) == 2 * (400 - 3 * 15)

    def test_too_large_a_request_names_the_largest_that_works(self) -> None:
        pool = POOLS["qualities"]
        with pytest.raises(InputError, match=r"^500 statements .* 1236 statements in 206 groups") as caught:
            split(pool, 500, generator())
        match = re.search(r"At most (\d+) are possible: set task\.evaluation_examples=\1", str(caught.value))
        assert match
        possible = int(match[1])
        assert 300 < possible < 500
        assert len(split(pool, possible, generator()).evaluation) == possible
        with pytest.raises(InputError):
            split(pool, possible + 1, generator())

    @pytest.mark.parametrize("pool", [[], uneven(102), [Statement(f"{i}", True, f"{i}") for i in range(999)]])
    def test_a_pool_that_allows_no_size_says_so(self, pool: list[Statement]) -> None:
        with pytest.raises(InputError, match=f"{len(pool)} statements in .* No size is possible: use a task"):
            split(pool, 4, generator())

    def test_exactly_enough_is_enough(self) -> None:
        parts = parts_of(split(uneven(103), 2, generator()))
        assert [len(part) for part in parts.values()] == [200, 2, 2, 2]

    @pytest.mark.parametrize("n", [0, -3])
    def test_size_below_one_is_refused(self, n: int) -> None:
        with pytest.raises(InputError, match=f"is {n}; give at least 1"):
            split(POOLS["words"], n, generator())

    def test_a_text_that_comes_twice_is_refused(self) -> None:
        pool = POOLS["words"]
        with pytest.raises(InputError, match=r"'A dog is an animal\.' is 2 times in the pool"):
            split([*pool, Statement("A dog is an animal.", False, "elsewhere")], 10, generator())
