"""Several processes, in the environment that torchrun gives them."""

import subprocess
import sys

from service import free_port

# One process imports, and then becomes all of them with the environment that torchrun would give them.
FORKED = """
import os, runpy, sys
import lightning_fabric, sklearn.covariance, torch.onnx  # what a fit takes longest to import
import recondite.distributed, recondite.screen.fit
_, port, count, *sys.argv = sys.argv
os.environ |= {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
children = []
for rank in range(int(count) - 1, -1, -1):
    child = os.fork() if rank else 0
    if not child:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        runpy.run_path(sys.argv[0])
        break
    children.append(child)
if os.environ["RANK"] == "0":
    sys.exit(any(os.waitpid(child, 0)[1] for child in children))
"""


def run_in_processes(count, script, *arguments):
    """Run a script in so many processes at once."""
    told = [str(one) for one in (free_port(), count, script, *arguments)]
    done = subprocess.run([sys.executable, "-c", FORKED, *told], timeout=240, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
