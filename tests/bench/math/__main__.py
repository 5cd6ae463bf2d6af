"""`python tests/bench/math`: see throughput.py, a module of its own because worker processes import it by name."""

from throughput import main

main()
