"""`python tests/bench/grade`: see paper_scale.py, a module of its own because worker processes import it by name."""

from paper_scale import main

main()
