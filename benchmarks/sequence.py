"""Recurrent networks over sequences, beside a plain loop, n-grams, other stories and compressors.

All figures are of test sequences that no fit has seen, scored exactly, each from its first step to
its last; a set's own validation part chooses when to stop. Times are CPU time of one thread.

- ``throughput``: a step of our `map` beside a step of the same network, data, windows and Adam in a
  loop written by hand, alternating; CPU time per step, medians.
- ``jsb``: JSB chorales, LSTM of 200 units, nats per step (sum of nats over sum of steps; keys
  independent given the past, as published).
- ``shakespeare``: tiny Shakespeare as one text, 90/5/5, LSTM of 512 units, bits per character,
  beside NLTK's interpolated Kneser-Ney 5-gram, whose discount is the validation part's best.
- ``posterior``: `laplace` of the last layer, `svi` and `sgld` on the chorales beside the mode under
  the same prior. Draws are averaged in probability: of whole chorales, and anew at each step.
  All start at modes that the validation part chose, and then see its 76 chorales as well as the
  229 that the mode was fitted to: the figures are of methods, not of equal data.
- ``digits``, ``mnist``: black and white images pixel by pixel, in nats per image, beside a mixture
  of Bernoulli pixels and a restricted Boltzmann machine, whose figure is estimated by annealed
  importance sampling.
- ``graphs``: the graph atlas, one graph in five held out; squared MMD of degrees and of clustering
  between the held-out graphs and those that the network draws, beside random graphs of the same
  sizes.
- ``compression``: the speeches of Shakespeare that were held out, as `zoo compress` writes them,
  beside xz and zstd, which get the text alone or learn from what the network was fitted to first.

    python -m benchmarks.sequence                          # throughput and jsb, a minute
    python -m benchmarks.sequence --rows shakespeare       # ten CPU minutes
    python -m benchmarks.sequence --rows digits,graphs,compression

Exits with 1 where storyzoo misses what it promises: a step at most 5 % dearer than by hand, at most
8.45 nats per step on the chorales, at most 2.18 bits per character within 600 CPU seconds and less
than the 5-gram, graphs nearer to the data than random ones, fewer bytes than xz and zstd take.
"""

from __future__ import annotations

import argparse
import lzma
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
import zstandard

from benchmarks import kneser_ney, rbm
from benchmarks.bernoulli_mixture import BernoulliMixture
from storyzoo.compress import Compressor
from storyzoo.datasets import load
from storyzoo.datasets.adjacency import Adjacency
from storyzoo.datasets.codecs import TextCodec
from storyzoo.errors import StoryzooError
from storyzoo.inference.em import EM
from storyzoo.inference.engine.continuation import AS_TOLD
from storyzoo.inference.engine.heldout import averaged_by_step, log_predictive
from storyzoo.inference.engine.method import Method
from storyzoo.inference.engine.progress import Progress
from storyzoo.inference.engine.resume import Keeper
from storyzoo.inference.engine.simulation import Simulator
from storyzoo.inference.engine.stochastic_ascent import Schedule, StochasticAscent
from storyzoo.inference.engine.target import Target
from storyzoo.inference.engine.tree import draws_of
from storyzoo.inference.laplace import Laplace
from storyzoo.inference.map import MAP
from storyzoo.inference.sgld import SGLD
from storyzoo.inference.svi import SVI
from storyzoo.models.piano_roll import PianoRoll
from storyzoo.models.sequence import Sequence
from storyzoo.reports.graph_statistics import discrepancies, random_likes
from storyzoo.run import Task, fit_task, prepare

ROWS = (
    "throughput", "jsb", "shakespeare", "posterior", "digits", "mnist", "graphs", "compression",
)  # fmt: skip
USUAL = ("throughput", "jsb")
STEPS = 15
"""Steps of either side in one turn."""
TURNS = 7
DRAWN = 300
"""Sequences that the network draws to be held against graphs."""


class Promise(NamedTuple):
    """A figure that must not lie above a limit."""

    what: str
    value: float
    limit: float

    @property
    def kept(self) -> bool:
        return self.value <= self.limit

    def __str__(self) -> str:
        word = "kept" if self.kept else "MISSED"
        return f"{word}: {self.what} {self.value:.4g}, at most {self.limit:g}"


class Scored(NamedTuple):
    """A fit's figures on the test sequences."""

    nats_per_step: float
    """Sum of nats over sum of steps, positive."""
    of_means: float
    """Mean over sequences of their means by step."""
    per_example: float
    """Mean over examples, positive."""
    by_step: float
    """As the first, the draws averaged anew at each step."""
    seconds: float
    """CPU time of the fit."""
    info: Any
    draws: dict[str, np.ndarray]
    """Of the posterior, ``(S, *shape)``."""


def scored(task: Task, method: Method, seed: int = 0) -> Scored:
    """Fit the training sequences, score the others."""
    assert task.test is not None
    before = time.process_time()
    tree, info = method.run(task.train, seed=seed, progress=Progress(quiet=True))
    seconds = time.process_time() - before
    draws = draws_of(task.train.structure, tree["posterior"])
    flat = {name: value.reshape(-1, *value.shape[2:]) for name, value in draws.items()}
    found = log_predictive(task.test, flat)
    sizes = np.ones_like(found.nats) if found.sizes is None else found.sizes
    known = sizes > 0
    return Scored(
        -float(found.nats.sum() / sizes.sum()),
        -float((found.nats[known] / sizes[known]).mean()),
        -float(found.nats.mean()),
        -(averaged_by_step(task.test, flat) or float("nan")),
        seconds,
        info,
        flat,
    )


# -- rows --------------------------------------------------------------------------------------


def chorales(**fields: Any) -> Task:
    """JSB chorales, split as published: 229, 76 and 77."""
    return prepare(PianoRoll(**fields), "jsb-chorales", holdout=None)


def jsb() -> Iterator[Promise]:
    """One LSTM of 200 units."""
    method = MAP(epochs=60, truncate=None, batch_size=16, learning_rate=0.006)
    found = scored(chorales(n_hidden=200), method)
    print(
        f"jsb  LSTM 200, map: {found.nats_per_step:.3f} nats per step (mean of chorales' means "
        f"{found.of_means:.3f}), {found.seconds:.0f} CPU s, step {found.info.kept_step} kept"
    )
    yield Promise("jsb, nats per step", found.nats_per_step, 8.45)


def posterior() -> Iterator[Promise]:
    """Draws of the same network's weights, averaged in probability, beside their mode.

    The prior's width is that, of 0.1, 0.2 and 0.4, under which draws told the validation part best.
    """
    task = chorales(n_hidden=200, weight_sd=0.4)
    climb: Any = {"batch_size": 16, "learning_rate": 0.006}
    methods: dict[str, Method] = {
        "map": MAP(epochs=60, truncate=None, **climb),
        "laplace": Laplace(epochs=60, truncate=None, draws=30, **climb),
        "svi": SVI(epochs=25, batch_size=16, draws=40),
        "sgld": SGLD(
            chains=4, draws=20, thin=25, warmup=200, momentum=0.95, step=4e-4, epochs=40, **climb
        ),
    }
    found = {}
    for name, method in methods.items():
        found[name] = scored(task, method)
        print(
            f"posterior  LSTM 200, {name}: {found[name].by_step:.3f} nats per step, averaged over "
            f"whole chorales {found[name].nats_per_step:.3f}; {found[name].seconds:.0f} CPU s"
        )
    mode = found.pop("map").nats_per_step
    for name, one in found.items():
        yield Promise(f"{name}, nats per step, at most the mode's", one.by_step, mode)


def shakespeare() -> Iterator[Promise]:
    """One LSTM of 512 units on a continuous text."""
    story = Sequence(n_hidden=512, n_embedding=64, dropout=0.15, end="no")
    task = prepare(story, "tiny-shakespeare:by=text", holdout=None)
    method = MAP(
        epochs=5, batch_size=32, truncate=64, curve=5, patience=None, learning_rate=0.006
    )  # fmt: skip
    found = scored(task, method)
    bits = found.nats_per_step / np.log(2)
    print(f"shakespeare  LSTM 512, map: {bits:.3f} bits per character, {found.seconds:.0f} CPU s")
    grams, discount = five_grams()
    print(f"shakespeare  NLTK's Kneser-Ney 5-gram, discount {discount}: {grams:.3f}")
    yield Promise("shakespeare, bits per character", bits, 2.18)
    yield Promise("shakespeare, CPU seconds", found.seconds, 600)
    yield Promise("shakespeare, bits per character, beside the 5-gram's", bits, grams)


def five_grams() -> tuple[float, float]:
    """Bits per character of NLTK's model on the same test part, and its discount."""
    dataset = load("tiny-shakespeare:by=text")
    assert isinstance(dataset.codec, TextCodec) and dataset.arrays is not None
    token, length = (np.asarray(dataset.arrays[name]) for name in ("token", "length"))
    parts = np.split(token, np.cumsum(length)[:-1])
    fitted, validation, test = (dataset.codec.decode(part.tolist()) for part in parts)
    model = kneser_ney.best(fitted, validation, 5)
    kneser_ney.check(model, test)
    return kneser_ney.bits_per_character(model, test), model.estimator.discount


# -- images, graphs, bytes ---------------------------------------------------------------------


def digits() -> Iterator[Promise]:
    """64 pixels an image, 1,500 images to fit, 297 to score."""
    network = Sequence(n_hidden=128, n_embedding=8, dropout=0.3)
    by_pixel = MAP(epochs=100, batch_size=50, truncate=None, learning_rate=0.004)
    _images("digits", "digits-binary", network, by_pixel, "digits-64", 40)
    yield from ()


def mnist() -> Iterator[Promise]:
    """784 pixels an image, 8,000 images to fit, 1,000 to score."""
    network = Sequence(n_hidden=200, n_embedding=16)
    by_pixel = MAP(epochs=6, batch_size=32, truncate=196, learning_rate=0.004, curve=6)
    _images("mnist", "mnist:binarize=0.5", network, by_pixel, "mnist", 100)
    yield from ()


def _images(
    row: str, data: str, network: Sequence, by_pixel: Method, machine: str, templates: int
) -> None:
    """Nats per image of three stories on one split."""
    joint = "," if ":" in data else ":"
    task = prepare(network, f"{data}{joint}codec=raster,levels=2", holdout=None)
    found = scored(task, by_pixel)
    print(
        f"{row}  LSTM {network.n_hidden}, map: {-found.per_example:.2f} nats per image, exact, "
        f"{found.seconds:.0f} CPU s"
    )
    mixture = prepare(BernoulliMixture(templates), data, holdout=None)
    found = scored(mixture, EM(restarts=2, max_steps=60))
    print(
        f"{row}  mixture of {templates}, em: {-found.per_example:.2f} nats per image, exact, "
        f"{found.seconds:.0f} CPU s"
    )
    problem = rbm.PROBLEMS[machine]
    (setting, *_) = (setting for setting in problem.settings if setting.promised)
    answer = rbm.ours(problem, setting, problem.rows(), seed=0)
    told = answer.score.test
    print(
        f"{row}  Boltzmann machine of {problem.n_hidden}, {answer.side}: {told.value:.2f} nats per "
        f"image, bounds {told.lower:.2f} to {told.upper:.2f}, {answer.cpu:.0f} CPU s"
    )


def graphs() -> Iterator[Promise]:
    """Connected graphs of up to seven nodes."""
    task = prepare(Sequence(n_hidden=128), "graph-atlas:orders=10", holdout=None)
    found = scored(task, MAP(epochs=40, batch_size=64, truncate=None))
    dataset = task.bound.dataset
    assert task.test is not None and dataset is not None
    codec = dataset.codec
    assert isinstance(codec, Adjacency)
    held = graphs_of(codec, task.test.data)[::10]  # each stands there in ten orders
    latents = {name: torch.as_tensor(values[0]) for name, values in found.draws.items()}
    rng = np.random.default_rng(0)
    drawn = Simulator(task.train).data(latents, rng, DRAWN, AS_TOLD)
    own = graphs_of(codec, drawn)
    print(
        f"graphs  LSTM 128, map: {len(own)} of {DRAWN} sequences drawn are graphs, "
        f"{found.nats_per_step:.3f} nats per step of a graph in one order, {found.seconds:.0f} "
        "CPU s"
    )
    sets = {"the network": own, **random_likes(held, 0)}
    fitted = graphs_of(codec, task.train.data)[::10]
    sets["the graphs fitted"] = fitted
    far = {name: discrepancies(held, those) for name, those in sets.items()}
    for name, by in far.items():
        said = ", ".join(f"{statistic} {value:.4f}" for statistic, value in by.items())
        print(f"graphs  squared MMD to {len(held)} held-out graphs, {name}: {said}")
    for statistic, value in far["the network"].items():
        for name in random_likes(held[:1], 0):
            yield Promise(f"graphs, {statistic}, beside {name}'s", value, far[name][statistic])


def graphs_of(codec: Adjacency, data: Mapping[str, Any]) -> list[Any]:
    """The graphs among sequences that lie end to end."""
    token, length = (np.asarray(data[name]) for name in ("token", "length"))
    parts = np.split(token, np.cumsum(length)[:-1])
    found = [codec.decode(part.tolist()) for part in parts]
    return [graph for graph in found if graph is not None and len(graph)]


def compression() -> Iterator[Promise]:
    """An LSTM of 256 units; what it weighs itself is not counted."""
    story = Sequence(n_hidden=256, n_embedding=64, dropout=0.1)
    task = prepare(story, "tiny-shakespeare", holdout=None)
    method = MAP(epochs=4, batch_size=32, truncate=100, curve=8)
    fitted = fit_task(task, method, 0, None, None, progress=False)
    dataset = task.bound.dataset
    assert dataset is not None and isinstance(dataset.codec, TextCodec)
    seen, held = (text_of(dataset.codec, part) for part in (task.train, task.test))
    before = time.process_time()
    packed = Compressor(fitted, draws=1, progress=False).compress("held-out", held)
    seconds = time.process_time() - before
    assert Compressor(fitted, draws=1, progress=False).decompress("held-out", packed) == held
    sizes = {
        "xz -9e": len(by_xz(held)),
        "zstd -19": len(by_zstd(held)),
        "xz -9e after the text fitted": len(by_xz(seen + held)) - len(by_xz(seen)),
        "zstd -19 after the text fitted": len(by_zstd(held, seen)),
    }
    print(
        f"compression  LSTM 256: {len(held):,} bytes of held-out speeches in {len(packed):,}, "
        f"bit for bit the same after the round trip; coded in {seconds:.0f} CPU s"
    )
    for name, size in sizes.items():
        print(f"compression  {name}: {size:,} bytes")
        yield Promise(f"compression, bytes, beside {name}", len(packed), size)


def text_of(codec: TextCodec, part: Target | None) -> bytes:
    """The sequences of a part as they stand in a file."""
    assert part is not None
    token, length = (np.asarray(part.data[name]) for name in ("token", "length"))
    parts = np.split(token, np.cumsum(length)[:-1])
    return codec.joined(codec.decode(one.tolist()) for one in parts).encode()


def by_xz(content: bytes) -> bytes:
    """At its strongest; its window holds all of the text."""
    return lzma.compress(content, preset=9 | lzma.PRESET_EXTREME)


def by_zstd(content: bytes, seen: bytes = b"") -> bytes:
    """At level 19, after a text that whoever unpacks has too."""
    known = zstandard.ZstdCompressionDict(seen, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    return zstandard.ZstdCompressor(level=19, dict_data=known if seen else None).compress(content)


# -- throughput --------------------------------------------------------------------------------


def throughput() -> Iterator[Promise]:
    """Both sides step in turns, so that a busy machine hurts them alike."""
    for name, task, rows, width in (
        ("chorales, LSTM 200", chorales(n_hidden=200, dropout=0.5), 16, None),
        ("Shakespeare, LSTM 256", text(256), 32, 64),
    ):
        ours, theirs = Ours(task.train, rows, width), ByHand(task.train, rows, width)
        times: dict[str, list[float]] = {"ours": [], "by hand": []}
        for turn in range(TURNS):
            for side, steps in (("ours", ours), ("by hand", theirs)):
                spent = clocked(steps.step, STEPS)
                if turn:  # the first warms up
                    times[side].append(spent)
        ratio = median(a / b for a, b in zip(times["ours"], times["by hand"], strict=True))
        print(
            f"throughput  {name}: {1e3 * median(times['ours']):.1f} ms a step, by hand "
            f"{1e3 * median(times['by hand']):.1f} ms; ratio {ratio:.3f}"
        )
        yield Promise(f"step over a step by hand, {name}", ratio, 1.05)


def text(n_hidden: int) -> Task:
    """Tiny Shakespeare for so many units."""
    story = Sequence(n_hidden=n_hidden, n_embedding=64, end="no")
    return prepare(story, "tiny-shakespeare:by=text", holdout=None)


def clocked(step: Callable[[], None], count: int) -> float:
    """CPU seconds of a step."""
    before = time.process_time()
    for _ in range(count):
        step()
    return (time.process_time() - before) / count


class Ours:
    """The steps of `map`."""

    def __init__(self, target: Target, rows: int, width: int | None) -> None:
        schedule = Schedule(0.003, 100, rows, width, 1.0, None, None, 1)
        self._ascent = StochasticAscent(schedule, target, True, 0, Keeper(None, ""))
        self._context = target.context

    def step(self) -> None:
        with self._context():
            self._ascent.state = self._ascent._step(self._ascent.state)


class ByHand:
    """The same network as torch's modules, over the same windows, with torch's own Adam."""

    def __init__(self, target: Target, rows: int, width: int | None) -> None:
        story: Any = target.story
        schedule = Schedule(0.003, 100, rows, width, 1.0, None, None, 1)
        with target.context():
            self._windows = StochasticAscent(schedule, target, True, 0, Keeper(None, "")).windows
        self._keys = isinstance(story, PianoRoll)
        shapes = {name: site.shape for name, site in target.structure.latents.items()}
        outputs = shapes["output_bias"][0]
        inputs = outputs
        self._embedding: torch.nn.Embedding | None = None
        if not self._keys:
            n_inputs, inputs = shapes["embedding_weight"]
            self._embedding = torch.nn.Embedding(n_inputs, inputs)
        self._core = torch.nn.LSTM(inputs, story.n_hidden, batch_first=True)
        self._drop = torch.nn.Dropout(story.dropout)
        self._output = torch.nn.Linear(story.n_hidden, outputs)
        modules = [m for m in (self._embedding, self._core, self._output) if m is not None]
        self._weights = [w for module in modules for w in module.parameters()]
        self._adam = torch.optim.Adam(self._weights, 0.003, weight_decay=1e-6)
        self._shuffle = torch.Generator().manual_seed(0)
        self._place = self._windows.first(self._shuffle)
        self._state: Any = None

    def step(self) -> None:
        window = self._windows.at(self._place)
        state = None if not self._place.window else self._state
        if state is not None:
            state = tuple(part[:, : len(window.inside)].contiguous() for part in state)
        inputs = window.inputs if self._embedding is None else self._embedding(window.inputs)
        told, after = self._core(inputs, state)
        logits = self._output(self._drop(told))
        loss = (self._loss(logits, window.targets) * window.inside).sum() / window.inside.sum()
        self._adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._weights, 1.0)
        self._adam.step()
        self._state = tuple(part.detach() for part in after)
        self._place = self._windows.after(self._place, self._shuffle)

    def _loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        functional = torch.nn.functional
        if self._keys:
            each = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
            return each.sum(-1)
        flat = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        return flat.view(targets.shape)


# -- the run -----------------------------------------------------------------------------------


def main(argv: list[str] | None = None) -> int:
    """Run the rows asked for; 1 where a promise is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rows", default=",".join(USUAL), help=f"of {', '.join(ROWS)}")
    names = parser.parse_args(argv).rows.split(",")
    unknown = [name for name in names if name not in ROWS]
    if unknown:
        print(f"no row {unknown[0]!r}: choose among {', '.join(ROWS)}", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    runs: dict[str, Callable[[], Iterator[Promise]]] = {
        "throughput": throughput,
        "jsb": jsb,
        "shakespeare": shakespeare,
        "posterior": posterior,
        "digits": digits,
        "mnist": mnist,
        "graphs": graphs,
        "compression": compression,
    }
    try:
        promises = [promise for name in names for promise in runs[name]()]
    except StoryzooError as error:
        print(error, file=sys.stderr)
        return 2
    for promise in promises:
        print(promise)
    return 0 if all(promise.kept for promise in promises) else 1


if __name__ == "__main__":
    sys.exit(main())
