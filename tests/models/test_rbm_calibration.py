"""NUTS over a machine's weights, held against 200 machines whose weights are known.

Single weights mean nothing across chains, so what is ranked is invariant: means and correlations
of the visible units, the log likelihood and the log joint. A wrong log Z, a wrong gradient or
chains that are stuck in one way of sharing the work would each show here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from storyzoo.calibrate import calibrate
from storyzoo.inference.nuts import NUTS
from storyzoo.models.rbm import RestrictedBoltzmann
from storyzoo.reports.calibration import CALIBRATED
from storyzoo.story import Data, Latents

pytestmark = pytest.mark.slow

ROWS = np.random.default_rng(0).integers(0, 2, (30, 4)).astype(float)
QUICK = NUTS(chains=4, draws=250, warmup=250)


@dataclass(frozen=True)
class Unnormalised(RestrictedBoltzmann):
    """A machine whose likelihood leaves out half of log Z."""

    name = "unnormalised"

    def marginal(self, latents: Latents, data: Data) -> torch.Tensor:
        machine = self.machine(latents)
        return super().marginal(latents, data) + machine.exact_log_partition() / 2


def test_nuts_is_calibrated_for_a_machine_of_four_by_three() -> None:
    found = calibrate(RestrictedBoltzmann(n_hidden=3), {"v": ROWS}, QUICK, jobs=2)
    names = set(found.table["name"])
    assert {f"visible_mean[{i}]" for i in range(4)} <= names
    assert {f"visible_correlation[{i}]" for i in range(6)} <= names
    assert "log_joint" in names and names & {"log_likelihood", "mean_log_likelihood"}
    assert not found.evidence.failed
    assert found.verdict == CALIBRATED, found.judged.headline


def test_a_wrong_normaliser_is_seen() -> None:
    given: dict[str, Any] = {"simulations": 60, "jobs": 2, "seed": 1}
    found = calibrate(Unnormalised(n_hidden=3), {"v": ROWS}, QUICK, **given)
    assert found.verdict != CALIBRATED
