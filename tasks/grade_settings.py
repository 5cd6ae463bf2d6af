"""Settings of the grade stage."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from tasks.settings import Settings


class GradeSettings(Settings):
    cv_ddof: Literal[0, 1] = 1
    """1: divide by n − 1; 0: by n, as the paper's formula is printed."""
    bands: Literal["pass_rate", "quantile"] = "pass_rate"
    """What `easy_from` and `hard_below` are: pass rates, or shares of all solved questions ordered by pass rate."""
    easy_from: float = Field(default=0.75, gt=0, le=1)
    """From here a question is easy; the bands are ours."""
    hard_below: float = Field(default=0.25, ge=0, lt=1)
    """Up to here a question is hard; 0 passes are `unsolved`."""
    suspect_agreement: float = Field(default=0.6, gt=0, le=1)
    """Share of the votes' weight for one answer, other than the reference, from which the reference is suspect."""
    suspect_answers: int = Field(default=3, ge=2)
    """At least so many answers must be there for that, or for a vote."""
    repair: bool = False
    """Ask the judge of `verify.judge` about suspect references, and replace those that it finds wrong."""
    vote_from: float | None = Field(default=None, gt=0.5, le=1)
    """Share of the votes' weight from which the majority's answer stands in for a missing reference.

    Unset, a question without a means of verification stays ungraded.
    """

    @model_validator(mode="after")
    def _bands(self) -> GradeSettings:
        if self.hard_below >= self.easy_from:
            raise ValueError(f"hard_below ({self.hard_below}) must lie below easy_from ({self.easy_from})")
        return self
