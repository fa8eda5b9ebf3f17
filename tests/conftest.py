"""What all tests share."""

import os

# Tests, and the programs that they start, run beside each other. Threads of torch that wait for one another burn their
# core otherwise, and training takes four times as long. Read when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

pytest_plugins = ["tests.cluster.plugin", "tests.stores.plugin"]
