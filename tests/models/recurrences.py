"""Recurrent networks written by hand, a step at a time in double precision, and small stories."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy.special import expit, log_softmax

from storyzoo.inference.engine.target import Target, make_target
from storyzoo.story import Story

CORES = ("gru", "lstm", "rnn")
WORDS: dict[str, Any] = {
    "token": np.array([0, 1, 2, 1, 0, 2, 2]),
    "length": np.array([2, 0, 4, 1]),
    "n_tokens": 3,
}
"""Four sequences over three symbols, one of which ends at once."""
Weights = Mapping[str, np.ndarray]


def drawn(story: Story, data: Mapping[str, Any], seed: int = 0, size: float = 0.8) -> Any:
    """A target, and weights that are no start of anything: normal of some size."""
    target = make_target(story, data)
    rng = np.random.default_rng(seed)
    weights = {
        name: size * rng.normal(size=site.shape) for name, site in target.structure.latents.items()
    }
    return target, weights


def tensors(target: Target, weights: Weights) -> dict[str, torch.Tensor]:
    """Weights as the story takes them."""
    return {name: torch.as_tensor(v).to(torch.float32) for name, v in weights.items()}


def core_step(core: str, w: Weights, layer: int, x: np.ndarray, state: Any) -> tuple[Any, Any]:
    """One step of one layer: what it tells and its state, by the textbook's equations."""
    h, c = state
    own = {
        part: w[f"core_{part}_l{layer}"]
        for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    }
    of_x = own["weight_ih"] @ x + own["bias_ih"]
    of_h = own["weight_hh"] @ h + own["bias_hh"]
    if core == "rnn":
        h = np.tanh(of_x + of_h)
        return h, (h, c)
    if core == "gru":
        reset, update = (expit(a + b) for a, b in zip(*map(_thirds, (of_x, of_h)), strict=True))
        new = np.tanh(np.split(of_x, 3)[2] + reset * np.split(of_h, 3)[2])
        h = (1 - update) * new + update * h
        return h, (h, c)
    enter, forget, cell, leave = np.split(of_x + of_h, 4)
    c = expit(forget) * c + expit(enter) * np.tanh(cell)
    h = expit(leave) * np.tanh(c)
    return h, (h, c)


def _thirds(values: np.ndarray) -> list[np.ndarray]:
    return np.split(values, 3)[:2]


def logits_by_hand(core: str, layers: int, w: Weights, inputs: np.ndarray) -> np.ndarray:
    """Logits (T, V) of a sequence whose core sees inputs (T, I)."""
    size = w["output_weight"].shape[1]
    states = [(np.zeros(size), np.zeros(size)) for _ in range(layers)]
    logits = []
    for x in inputs:
        for layer in range(layers):
            x, states[layer] = core_step(core, w, layer, x, states[layer])
        logits.append(w["output_weight"] @ x + w["output_bias"])
    return np.array(logits)


def symbols_by_hand(core: str, layers: int, w: Weights, tokens: list[int], end: bool) -> float:
    """Log probability of one sequence, END at its end, nats."""
    n_tokens = len(w["embedding_weight"]) - 1
    targets = [*tokens, n_tokens] if end else list(tokens)
    if not targets:
        return 0.0
    before = [n_tokens, *targets[:-1]]
    told = log_softmax(logits_by_hand(core, layers, w, w["embedding_weight"][before]), axis=-1)
    return float(sum(told[t, symbol] for t, symbol in enumerate(targets)))


def keys_by_hand(core: str, w: Weights, keys: np.ndarray) -> float:
    """Log probability of one piece, nats."""
    inputs = np.concatenate([np.zeros((1, keys.shape[1])), keys[:-1]])
    p = expit(logits_by_hand(core, 1, w, inputs))
    return float(np.log(np.where(keys == 1, p, 1 - p)).sum())


def pieces(values: np.ndarray, length: np.ndarray) -> list[np.ndarray]:
    """Sequences one by one."""
    return np.split(values, np.cumsum(length)[:-1])
