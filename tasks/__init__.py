"""The stages, one file each: plain typed functions over ranges of shards."""

import os

# GNU OpenMP reads this when torch is loaded. Its threads otherwise spin at every barrier, and on a machine whose cores
# are busy with something else a generation of 3 s took 30 s (2 cores, load 5).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
