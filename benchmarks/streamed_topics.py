"""Memory of topics from a stream: peak memory of a fit against the number of documents.

``python benchmarks/streamed_topics.py 1000 100000 1000000`` writes synthetic documents of 100 words
to a temporary folder, fits each file block by block in a process of its own, and prints the peak
resident memory in MB, and CPU seconds. One pass for the vocabulary, one for the topics.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

WORDS, VOCABULARY, TOPICS, BATCH = 100, 5000, 20, 1000
"""Words of a document, words to choose from, topics, documents of a step."""
BLOCK = 10_000


class Measured(NamedTuple):
    """One fit."""

    documents: int
    megabytes: float
    """Peak resident memory of the process."""
    cpu_seconds: float


def write_documents(path: Path, documents: int, seed: int = 0) -> None:
    """Text with a document per line, drawn from known topics, one topic for each sentence of 10."""
    rng = np.random.default_rng(seed)
    topics = rng.dirichlet(np.full(VOCABULARY, 0.02), TOPICS).cumsum(1)
    names = np.array([f"word{v:04}" for v in range(VOCABULARY)], dtype=object)
    with path.open("w", encoding="utf-8") as file:
        for start in range(0, documents, BLOCK):
            n = min(BLOCK, documents - start)
            topic = rng.integers(0, TOPICS, (n, WORDS // 10)).repeat(10)
            word = np.empty(topic.size, dtype=np.int64)
            for k in range(TOPICS):
                own = topic == k
                word[own] = np.searchsorted(topics[k], rng.random(int(own.sum())))
            text = names[word.clip(max=VOCABULARY - 1)].reshape(n, WORDS)
            file.writelines(" ".join(line) + "\n" for line in text)


def fit_stream(path: Path) -> Measured:
    """One pass over a file in this process."""
    from dataclasses import replace

    from storyzoo.datasets import load
    from storyzoo.inference.engine.progress import Progress
    from storyzoo.inference.engine.target import make_target
    from storyzoo.inference.svi import SVI
    from storyzoo.models.lda import LatentDirichletAllocation

    begun = time.process_time()
    dataset = load(f"{path}:stream=true")
    assert dataset.stream is not None
    target = make_target(LatentDirichletAllocation(n_topics=TOPICS), dataset.arrays)
    target = replace(target, stream=dataset.stream)
    documents = dataset.stream.n_examples
    method = SVI(batch_size=BATCH, draws=10, max_steps=-(-documents // BATCH))
    method.run(target, seed=0, progress=Progress(quiet=True))
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Measured(documents, kilobytes / 1024, time.process_time() - begun)


def measure(documents: int) -> Measured:
    """Write so many documents and fit them in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "documents.txt"
        write_documents(path, documents)
        command = [sys.executable, __file__, "--file", str(path)]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return Measured(int(said[0]), float(said[1]), float(said[2]))


def main(arguments: list[str]) -> None:
    """Measure each size that is named, or the one file."""
    if arguments[:1] == ["--file"]:
        sys.stdout.write(" ".join(map(str, fit_stream(Path(arguments[1])))) + "\n")
        return
    for documents in map(int, arguments or ["1000", "100000"]):
        found = measure(documents)
        sys.stdout.write(
            f"{found.documents:>9,} documents: peak {found.megabytes:.0f} MB, "
            f"{found.cpu_seconds:.1f} CPU-s\n"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
