"""What the process tells of a case besides its times. The private API of torch is in `compilations` alone."""

import platform
import re
import sys
from pathlib import Path

import torch

from .built import Refused

# Ops of the scan and of the recurrence, whose suffixes tell the implementation; those without one choose it.
OP = re.compile(r"mvc::(?:selective_scan|linear_recurrence)(?:(_cpu|_triton|_chunked))?(?:_\w+)?")
IMPLEMENTATIONS = {"_cpu": "cpp", "_triton": "triton", "_chunked": "chunked"}
# Inductor launches the kernels of a Triton op without the op.
KERNEL = re.compile(r"(forward|summary|combine|backward|recurrence)_kernel(_\d+)?")


def versions():
    """Of what decides the speed besides the sources, by name; None for what is not installed."""
    try:
        import triton
    except ImportError:
        triton = None
    return {"python": platform.python_version(), "torch": torch.__version__, "triton": triton and triton.__version__}


def implementations(run, *, hidden):
    """The implementations of the scan that really ran in a call, by name, the fast paths of eager calls included. None
    where it is not known: an older mvc ran a scan without saying which.

    Args:
        hidden: not all that the call runs is seen; if nothing is, it is not known.
    """
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiler:
        run()
    names = {event.name for event in profiler.events()}
    matches = [match for name in names if (match := OP.fullmatch(name))]
    ran = {IMPLEMENTATIONS[match[1]] for match in matches if match[1]}
    if "mvc" in sys.modules and any(map(KERNEL.fullmatch, names)):
        ran.add("triton")
    return sorted(ran) or (None if matches or hidden else [])


def compilations():
    """What torch.compile has done in this process, by name; None for what this torch does not tell."""
    counted = {"graph breaks": 0, "recompiles": 0, "launches": 0}
    if "torch._dynamo" not in sys.modules:
        return counted
    counted = dict.fromkeys(counted)
    try:
        from torch._dynamo import utils

        counted["graph breaks"] = sum(utils.counters["graph_break"].values())
        # Of a frame and its n-th compilation, as "2/0"; a full list has forgotten the first.
        ids = [each.compile_id for each in utils.get_compilation_metrics()]
        if len(ids) < utils._compilation_metrics.maxlen and all(ids):
            counted["recompiles"] = sum(not each.endswith("/0") for each in {*ids})
        from torch._inductor import metrics

        counted["launches"] = metrics.generated_kernel_count
    except (ImportError, AttributeError, TypeError):
        pass
    return counted


def resident_peak():
    """The peak of the process's memory in bytes."""
    if sys.platform.startswith("linux"):  # where getrusage counts what the process had before it became Python
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    import resource  # Unix alone

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def require_source(name, file, paths):
    """Refuse a package that does not come from the sources that are measured.

    Args:
        file: of the package, or None where it has none.
        paths: folders of these sources; where there are none, the package may come from anywhere.

    Raises:
        Refused: it comes from elsewhere.
    """
    if not paths or (file and any(Path(file).resolve().is_relative_to(Path(path).resolve()) for path in paths)):
        return
    found = Path(file).parent if file else "a folder without a file of its own"
    raise Refused(f"imports {name} from {found}, not from {' or '.join(paths)}")
