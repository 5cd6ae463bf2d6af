"""`python tests/bench/repeats`: see corpus.py, a module of its own because a worker process imports it by name."""

from corpus import main

main()
