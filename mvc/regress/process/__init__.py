"""The process of a case. The driver runs these files beside the sources of any revision of any repository, in any
interpreter, under a package name of their own; mvc is imported only for its own cases.

Lines of JSON: {"case": fields, "timed": whether it will be, "slowdown": share, "paths": folders} comes in; {"ready":
facts} goes out. Then each {"calls": n, "clock": name} is answered by {"seconds": [...]}, and the end of the input ends
the process. A case that cannot run here is answered by {"error": why}.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>


def start():
    """Serve the driver. The process ends with it, also when it is killed."""
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it was killed before it could be waited for
            os.kill(os.getpid(), signal.SIGKILL)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what others print must not reach the driver
    os.environ["TEARDOWN_CUPTI"] = "0"  # after each turn, CUPTI's teardown would be slow and could crash CUDA graphs
    from .warned import Warned

    warned = Warned()
    from .main import serve  # imports torch, which takes seconds: the other side's process does so meanwhile

    serve(sys.stdin, answers, warned)
