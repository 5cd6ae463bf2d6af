"""What a recipe says of its nightly runs: `nightly:`."""

from __future__ import annotations

from pydantic import Field

from tasks.settings import Settings


class PromotionSettings(Settings):
    """What must hold of an edition before it is promoted. The books must always balance."""

    self_test: bool = True
    """The verifiers' self-test was made with these verifiers and kept its limits (verify.self_test)."""
    decontamination: bool = True
    """Every question was compared with the benchmarks (curate.decontaminate), and none is undecided."""
    max_share_drift: float | None = Field(default=0.1, ge=0, le=1)
    """Most by which the share of a category may differ from the last promoted edition's; null: any."""
    max_pass_rate_drift: float | None = Field(default=0.1, ge=0, le=1)
    """The same of the mean pass rate over all graded train questions."""
    max_length_drift: float | None = Field(default=0.25, ge=0)
    """The same of the mean length of an example's response, as a share of the last one's (0.25: by a quarter)."""
    max_size_drift: float | None = Field(default=0.5, ge=0)
    """The same of the number of examples."""


class NightlySettings(Settings):
    resample_unsolved: int = Field(default=0, ge=0)
    """So many fresh samples a night of the questions that a teacher solved in none of its samples so far; 0: none.
    Pass rates and difficulty stay those of `samples`."""
    resample_at_most: int = Field(default=16, ge=1)
    """Fresh samples of one question over all nights."""
    keep_editions: int = Field(default=14, ge=1)
    """Older ones are dropped; the newest promoted one stays in any case."""
    promote: PromotionSettings = PromotionSettings()
    notify: str | None = Field(default=None, pattern=r"^[a-z0-9-]+/[A-Za-z0-9_-]+$")
    """Prefect block that is told how the night ended: TYPE/NAME, such as webhook/team or slack-webhook/team."""
