"""Runs the benchmark; its module has a name of its own, so that the processes it starts can import it."""

from million_scale import main

main()
