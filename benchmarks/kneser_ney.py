"""NLTK's interpolated Kneser-Ney model of characters, in a time that can be waited for.

NLTK counts the continuations of a context anew for every probability, over all contexts of the
order above. Here they are counted once and looked up. The probabilities are NLTK's, which
:func:`check` holds against those by its own counting.

Source: Kneser and Ney (1995), ICASSP; Chen and Goodman (1999), Computer Speech and Language 13.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from nltk.lm import KneserNeyInterpolated, NgramCounter, Vocabulary
from nltk.lm.smoothing import KneserNey

DISCOUNTS = (0.1, 0.5, 0.75, 0.9, 0.95)
"""Tried; NLTK's own default is the first."""
CHECKED = 8
TOLERANCE = 1e-12

Context = tuple[str, ...]


class Counted(KneserNey):  # type: ignore[misc]
    """Kneser-Ney with its continuations counted once."""

    before: dict[Context, Counter[str]]
    """By context and symbol: different symbols that stand before both."""
    totals: dict[Context, int]

    def _continuation_counts(self, word: str, context: Context = ()) -> tuple[int, int]:
        return self.before[context][word], self.totals[context]


def grams(text: Sequence[str], order: int) -> Iterator[Context]:
    """All runs of one to ``order`` symbols."""
    for size in range(1, order + 1):
        yield from zip(*(text[start:] for start in range(size)), strict=False)


def learnt(text: str, order: int, discount: float) -> KneserNeyInterpolated:
    """NLTK's model of a text."""
    model = KneserNeyInterpolated(order, discount=discount)
    model.vocab = Vocabulary(text)
    model.counts = NgramCounter([grams(text, order)])
    estimator = Counted(model.vocab, model.counts, order, discount=discount)
    estimator.before, estimator.totals = continuations(model.counts, order)
    model.estimator = estimator
    return model


def continuations(
    counts: NgramCounter, order: int
) -> tuple[dict[Context, Counter[str]], dict[Context, int]]:
    """Different symbols before each context and symbol, and their sum over symbols."""
    before: dict[Context, Counter[str]] = defaultdict(Counter)
    for size in range(2, order + 1):
        for context, after in counts[size].items():
            before[context[1:]].update(symbol for symbol, count in after.items() if count)
    totals = {context: sum(after.values()) for context, after in before.items()}
    return before, totals


def with_discount(model: KneserNeyInterpolated, discount: float) -> KneserNeyInterpolated:
    """The same model, by another discount; counts are shared."""
    model.estimator.discount = discount
    return model


def bits_per_character(model: KneserNeyInterpolated, text: str) -> float:
    """Mean of ``-log2 p`` over the characters; each given those before it in this text."""
    known: dict[tuple[str, Context], float] = {}
    total = 0.0
    for place, symbol in enumerate(text):
        key = symbol, tuple(text[max(0, place - model.order + 1) : place])
        if key not in known:
            known[key] = -math.log2(model.unmasked_score(*key))
        total += known[key]
    return total / len(text)


def check(model: KneserNeyInterpolated, text: str, seed: int = 0) -> None:
    """AssertionError where a few probabilities are not what NLTK gives by itself."""
    slow: Any = KneserNeyInterpolated(model.order, discount=model.estimator.discount)
    slow.vocab, slow.counts, slow.estimator.counts = model.vocab, model.counts, model.counts
    for place in np.random.default_rng(seed).integers(model.order, len(text), CHECKED):
        context = tuple(text[place - model.order + 1 : place])
        ours, theirs = (m.unmasked_score(text[place], context) for m in (model, slow))
        assert abs(ours - theirs) <= TOLERANCE, (context, text[place], ours, theirs)


def best(fitted: str, validation: str, order: int) -> KneserNeyInterpolated:
    """The model by the discount that tells another text best."""
    model = learnt(fitted, order, DISCOUNTS[0])
    bits = {d: bits_per_character(with_discount(model, d), validation) for d in DISCOUNTS}
    return with_discount(model, min(bits, key=bits.__getitem__))
