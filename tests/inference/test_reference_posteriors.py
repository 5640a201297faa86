"""NUTS against posteriordb's reference draws: every mean and spread within Monte Carlo error."""

from __future__ import annotations

from pathlib import Path

import pytest

from storyzoo.inference.nuts import NUTS
from tests.inference.references import REFERENCES, assert_agrees


@pytest.mark.parametrize("name", REFERENCES)
def test_means_and_spreads_are_those_of_the_reference(name: str, mirror: Path) -> None:
    assert_agrees(name, NUTS(draws=1000, warmup=1000, chains=4))
