"""The page of claims: every verdict follows from a kept result, and from nothing else."""

import json
import re
from typing import Any

import pytest

from ..reference import ROOT
from . import kept
from .claim import NOT_REPRODUCED, NOT_TESTED, REPRODUCED, Spread, ahead
from .claims import all_claims, claims
from .residual_claims import residual_claims

CLAIMS = [claim for family in all_claims().values() for claim in family]


def test_there_are_claims_of_every_family_and_thirty_in_all():
    assert len(CLAIMS) >= 30 and all(all_claims().values())
    assert len({claim.told for claim in CLAIMS}) == len(CLAIMS)
    counts = map(int, re.findall(r"\d+", claims().partition(".")[0]))
    total, *parts = counts
    assert total == sum(parts) == len(CLAIMS)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.told[:60])
def test_a_claim_has_a_source_and_a_verdict_only_with_a_kept_result(claim):
    assert re.search(r"arXiv:\d{4}\.\d{5}, ", claim.source) or claim.source.startswith("ours, ")
    assert claim.verdict in (REPRODUCED, NOT_REPRODUCED, NOT_TESTED)
    tested = claim.verdict != NOT_TESTED
    assert bool(claim.kept) == bool(claim.found) == tested
    if tested:
        assert (ROOT / "benchmarks" / f"{claim.script or claim.kept}.py").is_file()
        assert not json.loads((kept.RESULTS / f"{claim.kept}.json").read_text())["quick"]
        assert re.search(r"\d", claim.found)


def test_a_verdict_follows_the_kept_figures(monkeypatch: pytest.MonkeyPatch):
    def better(name: str) -> dict[str, Any]:
        found = json.loads((kept.RESULTS / f"{name}.json").read_text())
        for row in found["rows"]:
            if row.get("residual") == "delta":
                row["bits/byte"] = 2.5
        return found

    def of_delta() -> Any:
        return next(c for c in residual_claims() if c.told.startswith("Deep Delta Learning"))

    assert of_delta().verdict == NOT_REPRODUCED
    monkeypatch.setattr(kept, "result", better)
    assert of_delta().verdict == REPRODUCED and "2.500 ± " in of_delta().found


def test_a_mean_is_ahead_beyond_two_errors_of_the_difference():
    assert ahead(Spread(1.51, 0.15), Spread(1.0, 0.2))
    assert not ahead(Spread(1.49, 0.15), Spread(1.0, 0.2))
    assert not ahead(Spread(1.0, 0.0), Spread(1.0, 0.0))
    assert str(Spread.read("0.987 ± 0.003", 2)) == "0.99 ± 0.00"
