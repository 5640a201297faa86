"""Topics side by side: storyzoo, scikit-learn (batch and online), gensim, tomotopy.

Every side gets the same counts and priors (alpha = 0.1, eta = 0.01, neither learned but where its
row says so: then each topic's alpha starts at 0.1, in ours its prior mean), and runs at several
lengths, each fit in a process of its own with one thread. The clock counts CPU seconds of that
process and what it starts, from counts in the side's own form to topics in memory; memory is the
process's peak above what it held before the fit, in MB (Linux; what a chain in a process of its own
takes is not seen). Held-out documents are never fitted: ``perplexity`` is that of document
completion under the topics, by one code for all, story ``lda``'s with alpha = 0.1, which sees one
half of the words of each document, the same for every side. ``npmi`` is the coherence of the ten
top words over the documents fitted, ``shared`` how many topics two seeds have in common (cosine
0.8). Figures are medians over seeds.

The corpora are BBC News (K = 20; its test and validation documents held out) and, with
``--corpus``, one of the user's own (K = 50; its own split, else one in five held out). With
``--stream`` our online fit also runs from files of 1e5 and 1e6 synthetic documents of 100 words,
once through, for the peak memory of the whole process.

    python -m benchmarks.topics                     # one seed on news: some minutes
    python -m benchmarks.topics --seeds 3 --corpus docword.nytimes.txt --stream

Exits with 1 where storyzoo misses what it promises: on each corpus one of its methods has a
perplexity at least as good as every peer's best, in at most half the time of the fastest peer that
comes within 1 % of the best peer's, and an NPMI no lower than tomotopy's at its best perplexity;
from a stream, a million documents take at most 100 MB more than a hundred thousand.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse
import torch

from storyzoo.datasets import load
from storyzoo.inference.em import EM
from storyzoo.inference.engine.heldout import log_completion
from storyzoo.inference.engine.method import Method
from storyzoo.inference.engine.progress import Progress
from storyzoo.inference.engine.target import Target, make_target
from storyzoo.inference.gibbs import Gibbs
from storyzoo.inference.svi import SVI
from storyzoo.models.kernels.topic_measures import agreement, npmi
from storyzoo.models.lda import LatentDirichletAllocation

Array = npt.NDArray[np.float64]
Corpus = Mapping[str, Any]
"""Counts without zeros: ``length``, ``word``, ``count`` and ``n_words``."""

ALPHA, ETA = 0.1, 0.01
REACHED = 1.01
"""How far above the best peer's perplexity a peer still counts as having reached it."""
TWICE = 0.5
"""Our time at most, of the fastest such peer's."""
MORE_MEGABYTES = 100
SPLIT_SEED = 0


@dataclass(frozen=True)
class Side:
    """A program at one length of its run."""

    name: str
    length: int
    """Passes over the corpus, or sweeps."""
    unit: str = "passes"
    needs: str = ""
    """The package that it is."""

    @property
    def ours(self) -> bool:
        return self.name.startswith("storyzoo")

    def __str__(self) -> str:
        return f"{self.name}, {self.length} {self.unit}"


SIDES = (
    *(Side("storyzoo collapsed", n, "passes at most") for n in (40, 500)),
    Side("storyzoo collapsed, alpha learned", 500, "passes at most"),
    *(Side("storyzoo gibbs", n, "sweeps") for n in (100, 300)),
    *(Side("storyzoo gibbs, alpha learned", n, "sweeps") for n in (300, 600)),
    Side("storyzoo svi", 50),
    *(Side("scikit-learn batch", n, needs="sklearn") for n in (20, 60)),
    *(Side("scikit-learn online", n, needs="sklearn") for n in (10, 30)),
    *(Side("gensim", n, needs="gensim") for n in (10, 30)),
    *(Side("tomotopy", n, "sweeps", needs="tomotopy") for n in (200, 500, 1000)),
    Side("tomotopy, alpha learned", 1000, "sweeps", needs="tomotopy"),
)


@dataclass(frozen=True)
class Run:
    """One fit, measured."""

    cpu: float
    """Seconds."""
    megabytes: float
    topics: Array
    perplexity: float
    npmi: float


@dataclass(frozen=True)
class Row:
    """One side on one corpus: medians over seeds."""

    side: Side
    runs: Sequence[Run]

    def told(self, what: str) -> float:
        """Median of a figure."""
        return float(median(getattr(run, what) for run in self.runs))

    @property
    def shared(self) -> float | None:
        """Topics that two seeds share; None of one seed."""
        if len(self.runs) < 2:
            return None
        topics = [run.topics for run in self.runs]
        return agreement(topics).shared * len(topics[0])


def main() -> int:
    """Run every side on every corpus, print the tables and say which promises were missed."""
    options = _options()
    if options.fit:
        _fit_alone(json.loads(options.fit))
        return 0
    load_now = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{os.cpu_count()} cores, load {load_now} at the start; one thread each\n")
    missed = []
    corpora = [("bbc-news", 20)]
    if options.corpus:
        corpora.append((options.corpus, options.topics))
    for name, k in corpora:
        rows = measure(name, k, range(options.seeds), options.only)
        missed += [f"MISSED on {name}: {said}" for said in shortfalls(rows)]
    if options.stream:
        missed += stream()
    if options.only:
        print("promises are not judged on some sides alone")
        return 0
    print("\n" + ("\n".join(missed) or "every promise kept"))
    return 1 if missed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1, help="fits per side")
    parser.add_argument("--corpus", help="a larger corpus: a file or a data set, as zoo takes them")
    parser.add_argument("--topics", type=int, default=50, help="K on that corpus")
    parser.add_argument("--only", default="", help="only sides whose names hold this")
    parser.add_argument("--stream", action="store_true", help="memory of the streamed fit too")
    parser.add_argument("--fit", help=argparse.SUPPRESS)
    return parser.parse_args()


# -- measuring -------------------------------------------------------------------------------


def split(name: str, k: int) -> tuple[Corpus, Target]:
    """The documents to fit, and those to foretell: test and validation ones, else one in five."""
    dataset = load(name)
    whole = make_target(story(k), dict(dataset.arrays))
    parts = [rows for rows in (dataset.test_rows, dataset.validation_rows) if rows is not None]
    everything = np.arange(whole.n_examples)
    if parts:
        held = np.sort(np.concatenate(parts))
    else:
        held = np.random.default_rng(SPLIT_SEED).permutation(everything)[: len(everything) // 5]
    data = whole.rows(np.setdiff1d(everything, held)).data
    train = {key: np.asarray(data[key]) for key in ("length", "word", "count")}
    return {**train, "n_words": int(data["n_words"])}, whole.rows(np.sort(held))


def story(k: int, learn_alpha: bool = False) -> LatentDirichletAllocation:
    """The priors of every side; where alpha is learned it is so a priori in the mean."""
    return LatentDirichletAllocation(n_topics=k, alpha=ALPHA, eta=ETA, learn_alpha=learn_alpha)


def measure(name: str, k: int, seeds: Sequence[int], only: str = "") -> list[Row]:
    """All sides on a corpus, which take turns within each seed; each run is told on stderr."""
    train, held = split(name, k)
    print(
        f"{name}: {len(train['length'])} documents fitted, {held.n_examples} held out, "
        f"{train['n_words']} words, {int(train['count'].sum())} tokens, K = {k}"
    )
    sides = [side for side in SIDES if only in side.name and _installed(side)]
    found: dict[Side, list[Run]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "corpus.npz", **train)
        for seed in seeds:
            for side in sides:
                found[side].append(_run(side, k, seed, Path(folder), train, held))
                print(line(Row(side, found[side][-1:])), file=sys.stderr, flush=True)
    rows = [Row(side, runs) for side, runs in found.items()]
    print(table(rows) + "\n", flush=True)
    return rows


def _installed(side: Side) -> bool:
    if not side.needs or importlib.util.find_spec(side.needs):
        return True
    print(f"{side.name} can't be imported: pip install -c constraints.txt -e '.[bench]'")
    return False


def _run(side: Side, k: int, seed: int, folder: Path, train: Corpus, held: Target) -> Run:
    """One fit in a process of its own, and its topics measured here."""
    task = {"side": side.name, "length": side.length, "k": k, "seed": seed, "folder": str(folder)}
    command = [sys.executable, "-m", "benchmarks.topics", "--fit", json.dumps(task)]
    done = subprocess.run(
        command, env=_environment(), stdout=subprocess.PIPE, text=True, check=True
    )
    told = json.loads(done.stdout.splitlines()[-1])
    topics = np.load(folder / "topics.npy")
    return Run(
        told["cpu"],
        told["megabytes"],
        topics.mean(0),
        perplexity(topics, held),
        float(npmi(topics.mean(0), train).mean()),
    )


def _environment() -> dict[str, str]:
    threads = ("OMP", "MKL", "OPENBLAS", "NUMBA")
    return {**os.environ, **{f"{library}_NUM_THREADS": "1" for library in threads}}


def perplexity(topics: Array, held: Target) -> float:
    """Document completion under draws (S, K, V) of topics; a single point is one draw."""
    sound = np.maximum(topics, 1e-12)
    found = log_completion(held, {"topics": sound / sound.sum(-1, keepdims=True)}, SPLIT_SEED)
    assert found is not None
    return found.perplexity


def _fit_alone(task: Mapping[str, Any]) -> None:
    """The body of a side's process: topics (S, K, V) to a file, what they cost to stdout."""
    with np.load(Path(task["folder"]) / "corpus.npz") as stored:
        corpus: Corpus = {key: stored[key] for key in ("length", "word", "count")}
        corpus = {**corpus, "n_words": int(stored["n_words"])}
    fit = PROGRAMS[task["side"]](corpus, task["k"], task["length"], task["seed"])
    before, began = _memory("VmRSS"), _cpu()
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is that of imports
    topics = fit()
    told = {"cpu": _cpu() - began, "megabytes": _memory("VmHWM") - before}
    np.save(Path(task["folder"]) / "topics.npy", topics.reshape(-1, *topics.shape[-2:]))
    print(json.dumps(told))


def _cpu() -> float:
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    own, children = (resource.getrusage(process) for process in who)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def _memory(what: str) -> float:
    """MB: ``VmRSS`` now, ``VmHWM`` at the peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith(what))


# -- the programs ----------------------------------------------------------------------------

Fit = Callable[[], Array]
Prepare = Callable[[Corpus, int, int, int], Fit]
"""From corpus, K, length and seed: the fit, with the corpus in the program's own form."""


def storyzoo(method: Method, corpus: Corpus, k: int, seed: int, learn_alpha: bool = False) -> Fit:
    """The story under a method; all chains' draws of the topics, or the point."""
    torch.set_num_threads(1)
    target = make_target(story(k, learn_alpha), dict(corpus))

    def fit() -> Array:
        tree, _ = method.run(target, seed=seed, progress=Progress(quiet=True))
        topics: Array = tree["posterior"]["topics"].to_numpy()
        return topics.reshape(-1, *topics.shape[2:])

    return fit


def collapsed(learn_alpha: bool) -> Prepare:
    """CVB0, one start."""

    def prepare(corpus: Corpus, k: int, length: int, seed: int) -> Fit:
        method = EM(collapsed=True, restarts=1, max_steps=length)
        return storyzoo(method, corpus, k, seed, learn_alpha)

    return prepare


def gibbs(learn_alpha: bool) -> Prepare:
    """One chain: two thirds of the sweeps warm it up, of the others every fifth is a draw."""

    def prepare(corpus: Corpus, k: int, length: int, seed: int) -> Fit:
        warmup = 2 * length // 3
        method = Gibbs(1, (length - warmup) // 5, warmup, thin=5, cores=1)
        return storyzoo(method, corpus, k, seed, learn_alpha)

    return prepare


def svi(corpus: Corpus, k: int, length: int, seed: int) -> Fit:
    """Natural gradients, 256 documents a step, one start."""
    steps = -(-length * len(corpus["length"]) // 256)
    method = SVI(guide="natural", batch_size=256, max_steps=steps, starts=1, draws=20)
    return storyzoo(method, corpus, k, seed)


def scikit_learn(learning: str) -> Prepare:
    """Variational Bayes over all documents, or 256 at a time."""

    def prepare(corpus: Corpus, k: int, length: int, seed: int) -> Fit:
        from sklearn.decomposition import LatentDirichletAllocation as Peer

        peer = Peer(
            k,
            doc_topic_prior=ALPHA,
            topic_word_prior=ETA,
            learning_method=learning,
            batch_size=256,
            max_iter=length,
            random_state=seed,
        )
        matrix = as_matrix(corpus)

        def fit() -> Array:
            return shares(peer.fit(matrix).components_)

        return fit

    return prepare


def gensim(corpus: Corpus, k: int, length: int, seed: int) -> Fit:
    """Online variational Bayes, 256 documents at a time."""
    from gensim.models import LdaModel

    matrix = as_matrix(corpus)
    documents = [
        list(zip(row.indices.tolist(), row.data.tolist(), strict=True))
        for row in (matrix[[d]] for d in range(matrix.shape[0]))
    ]
    words = {v: str(v) for v in range(corpus["n_words"])}

    def fit() -> Array:
        model = LdaModel(
            documents,
            num_topics=k,
            id2word=words,
            alpha=[ALPHA] * k,
            eta=ETA,
            passes=length,
            chunksize=256,
            random_state=seed,
            eval_every=None,
        )
        return shares(model.get_topics())

    return fit


def tomotopy(learn_alpha: bool) -> Prepare:
    """Collapsed Gibbs sampling, its last state; alpha by its own fixed point every ten sweeps."""

    def prepare(corpus: Corpus, k: int, length: int, seed: int) -> Fit:
        import tomotopy as tp

        tokens = np.repeat(corpus["word"], corpus["count"]).astype(str)
        starts = corpus["length"].cumsum() - corpus["length"]
        ends = np.add.reduceat(corpus["count"], starts).cumsum()
        documents = [own.tolist() for own in np.split(tokens, ends[:-1])]

        def fit() -> Array:
            model = tp.LDAModel(k=k, alpha=ALPHA, eta=ETA, seed=seed + 1)
            model.optim_interval = 10 if learn_alpha else 0
            for document in documents:
                model.add_doc(document)
            model.train(length, workers=1, show_progress=False)
            topics = np.zeros((k, corpus["n_words"]))
            places = np.array(list(model.used_vocabs), dtype=int)
            for topic in range(k):
                topics[topic, places] = model.get_topic_word_dist(topic)
            return topics

        return fit

    return prepare


PROGRAMS: dict[str, Prepare] = {
    "storyzoo collapsed": collapsed(False),
    "storyzoo collapsed, alpha learned": collapsed(True),
    "storyzoo gibbs": gibbs(False),
    "storyzoo gibbs, alpha learned": gibbs(True),
    "storyzoo svi": svi,
    "scikit-learn batch": scikit_learn("batch"),
    "scikit-learn online": scikit_learn("online"),
    "gensim": gensim,
    "tomotopy": tomotopy(False),
    "tomotopy, alpha learned": tomotopy(True),
}


def as_matrix(corpus: Corpus) -> Any:
    """The corpus as a scipy sparse matrix (document, word)."""
    ends = np.concatenate([[0], corpus["length"].cumsum()])
    shape = len(corpus["length"]), corpus["n_words"]
    return scipy.sparse.csr_matrix((corpus["count"], corpus["word"], ends), shape=shape)


def shares(weights: Array) -> Array:
    """Weights (K, V) of words as probabilities."""
    found = np.asarray(weights, dtype=np.float64)
    probability: Array = found / found.sum(1, keepdims=True)
    return probability


# -- the tables ------------------------------------------------------------------------------


def table(rows: Sequence[Row]) -> str:
    """A line per side."""
    head = f"{'':54} {'CPU s':>8} {'MB':>7} {'perplexity':>11} {'npmi':>7} {'shared':>7}"
    return "\n".join([head, *map(line, rows)])


def line(row: Row) -> str:
    """One side's figures, medians over its runs."""
    shared = "" if row.shared is None else f"{row.shared:.1f}"
    return (
        f"{row.side!s:54} {row.told('cpu'):8.2f} {row.told('megabytes'):7.0f} "
        f"{row.told('perplexity'):11.1f} {row.told('npmi'):7.3f} {shared:>7}"
    )


def shortfalls(rows: Sequence[Row]) -> list[str]:
    """What keeps each of our methods from the promise; empty where one of them keeps it."""
    ours = [row for row in rows if row.side.ours]
    peers = [row for row in rows if not row.side.ours]
    if not ours or not peers:
        return []
    best = min(row.told("perplexity") for row in peers)
    reached = [row for row in peers if row.told("perplexity") <= REACHED * best]
    fastest = min(row.told("cpu") for row in reached)
    sampled = [row for row in peers if row.side.name.startswith("tomotopy")]
    coherent = -1.0
    if sampled:
        coherent = min(sampled, key=lambda row: row.told("perplexity")).told("npmi")
    said = [_shortfall(row, best, fastest, coherent) for row in ours]
    return [] if None in said else [line for line in said if line is not None]


def _shortfall(row: Row, best: float, fastest: float, coherent: float) -> str | None:
    """What one of our rows lacks; None where nothing."""
    lacks = []
    if row.told("perplexity") > best:
        lacks.append(f"perplexity {row.told('perplexity'):.1f}, a peer's {best:.1f}")
    if row.told("cpu") > TWICE * fastest:
        lacks.append(f"{row.told('cpu'):.2f} CPU s, the fastest peer {fastest:.2f}")
    if row.told("npmi") < coherent:
        lacks.append(f"NPMI {row.told('npmi'):.3f}, tomotopy {coherent:.3f}")
    return f"{row.side}: {'; '.join(lacks)}" if lacks else None


# -- from a stream ---------------------------------------------------------------------------


def stream(sizes: Sequence[int] = (100_000, 1_000_000)) -> list[str]:
    """Peak memory of our online fit, once through files of so many documents."""
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            path = Path(folder) / f"{size}.lda-c"
            write_documents(path, size)
            cpu, megabytes = _streamed(path, size)
            peaks.append(megabytes)
            said = f"{size:>9} documents of 100 words, K = 20: {cpu:8.1f} CPU s"
            print(f"{said} {megabytes:7.0f} MB at the peak", flush=True)
            path.unlink()
    grown = peaks[-1] - peaks[0]
    return [f"MISSED: streaming took {grown:.0f} MB more"] if grown > MORE_MEGABYTES else []


def write_documents(path: Path, size: int, n_words: int = 5000, different: int = 10_000) -> None:
    """Documents of 100 words of 20 topics, as LDA-C; after ``different`` ones they come again."""
    rng = np.random.default_rng(0)
    topics = rng.dirichlet(np.full(n_words, 0.05), 20)
    count = min(size, different)
    lines = []
    for mixture in rng.dirichlet(np.full(20, ALPHA), count):
        probability = mixture @ topics
        drawn = rng.choice(n_words, 100, p=probability / probability.sum())
        words, counts = np.unique(drawn, return_counts=True)
        entries = " ".join(f"{v}:{n}" for v, n in zip(words, counts, strict=True))
        lines.append(f"{len(words)} {entries}\n")
    whole, rest = divmod(size, count)
    with path.open("w") as file:
        for _ in range(whole):
            file.writelines(lines)
        file.writelines(lines[:rest])


def _streamed(path: Path, size: int) -> tuple[float, float]:
    """CPU seconds and peak memory (MB) of a whole process that fits a file."""
    steps = -(-size // 1000)
    command = (
        "import resource, storyzoo as sz; from storyzoo.inference.svi import SVI; "
        "from storyzoo.models.lda import LatentDirichletAllocation as LDA; "
        f"sz.fit(LDA(20), {f'{path}:format=lda-c,stream=true'!r}, "
        f"SVI(guide='natural', batch_size=1000, max_steps={steps}, draws=20), progress=False); "
        "used = resource.getrusage(resource.RUSAGE_SELF); "
        "print(used.ru_utime + used.ru_stime, used.ru_maxrss / 1000)"
    )
    done = subprocess.run(
        [sys.executable, "-c", command],
        env=_environment(),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    cpu, megabytes = done.stdout.split()[-2:]
    return float(cpu), float(megabytes)


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # that a peer has not converged is what was asked for
    sys.exit(main())
