"""Proves that an unknown licence stops `export` with a remedy, that the flag lets it through, and that the end of the
command shows the most restrictive licence.
"""

from __future__ import annotations

import yaml


def test_an_unknown_licence_stops_the_export_and_the_flag_lets_it_through(stillhouse, replay_recipe, tmp_path):
    recipe = yaml.safe_load(replay_recipe.read_text())
    del recipe["sources"][0]["license"]
    replay_recipe.write_text(yaml.safe_dump(recipe))
    where = ("--workspace", tmp_path / "workspace")
    refused = stillhouse("run", replay_recipe, *where, code=1)
    assert "unknown licence of source sums: none stated" in refused and "--allow-unknown-license" in refused
    assert "Traceback" not in refused and not (tmp_path / "workspace" / "exports").exists()
    allowed = stillhouse("export", replay_recipe, *where, "--allow-unknown-license")
    assert "exports/huggingface: licence unknown" in allowed
    assert "Nobody knows the licence of: source sums: none stated." in allowed


def test_the_end_of_a_run_shows_the_licence(finished):
    assert "exports/huggingface: licence apache-2.0 (attribution)" in finished.output
