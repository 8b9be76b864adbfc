"""The models that are compared, and how many of them at once."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import time
from collections.abc import Iterator, Sequence

from bench import published_scan
from bench.models import COMPARED, FORCED
from bench.on_gpu import turns
from bench.on_gpu.jobs import PUBLISHED, Job
from bench.on_gpu.session import Session
from bench.on_gpu.turns import Comparison
from mvc.tasks import detection, segmentation

SMALL_PEER = "test_resnet"  # timm's
COMPILE_SHARE = 0.75  # of a comparison's time, at most


def throughput(quick: bool) -> list[Comparison]:
    """Our T at batch 128 beside the published one and two others of its size."""
    if quick:
        job = Job("tiny", "mvc, frozen", 4, "float32", size=64)
        return [(*_hows(_published(job), "eager"), job, *_hows(dataclasses.replace(job, model=SMALL_PEER), "eager"))]
    return [_beside_published(Job("T", "inductor", 128))]


def latency(quick: bool) -> list[Comparison]:
    """The same models at batch 1, under CUDA graphs."""
    if quick:
        job = Job("tiny", "inductor", 1, "float32", size=64, mode="reduce-overhead")
        return [tuple(_hows(job, "eager", "mvc"))]
    return [_beside_published(Job("T", "inductor", 1, mode="reduce-overhead"))]


def training(quick: bool) -> list[Comparison]:
    """A training step of T under autocast: launched call by call, and as one CUDA graph."""
    if quick:
        job = Job("tiny", "mvc", 4, "autocast", training=True, size=64)
        return [(*_hows(_published(job), "eager"), job)]
    job = Job("T", "inductor", 128, "autocast", training=True)
    ours, theirs = dataclasses.replace(job, how="mvc"), _published(job)
    graphs = [dataclasses.replace(each, captured=True) for each in (theirs, ours)]
    joined = dataclasses.replace(ours, how="mvc, joined")
    kept = dataclasses.replace(ours, how="mvc, all kept")
    return [(theirs, ours, job, *graphs, dataclasses.replace(joined, captured=True), kept)]


def others(quick: bool) -> list[Comparison]:
    """Larger variants beside the published arithmetic, T in bfloat16 beside float16, and T beside further models."""
    if quick:
        job = Job("tiny", "eager", 4, "bfloat16", size=64)
        return [(_published(job), job)]
    larger = [Job("S", "mvc, frozen", 128), Job("B", "mvc, frozen", 128)]
    t = Job("T", "mvc, frozen", 128)
    beside = [Job(name, "inductor", 128) for name in ("MambaOut-T", "CAFormer-S18", "ResNet-50")]
    return [
        *((dataclasses.replace(_published(job), how="inductor"), job) for job in larger),
        (dataclasses.replace(t, dtype="bfloat16"), t),
        (t, *beside),
    ]


def tasks(quick: bool) -> list[Comparison]:
    """The backbone of detection and of segmentation at their sizes, with windows as published and of valid tokens."""
    if quick:
        return [_dense(Job("tiny", "eager", 1, "float32", size=(80, 112), window_sizes=(8, 4)), "eager", "mvc, frozen")]
    published = (((800, 1333), detection.BACKBONE["window_sizes"]), ((512, 512), segmentation.window_sizes("T")))
    jobs = (Job("T", "eager", 1, size=size, window_sizes=windows) for size, windows in published)
    return [_dense(job, "eager", "inductor", "mvc, frozen") for job in jobs]


def _dense(job: Job, *hows: str) -> Comparison:
    """In each of the ways with padded windows, then without padding."""
    padded = _hows(job, *hows)
    return (*padded, *(dataclasses.replace(each, padded_windows=False) for each in padded))


def peers(quick: bool) -> list[Comparison]:
    """T beside the models that the paper compares it with, each by Inductor and by mvc."""
    if quick:
        job = Job("VMamba-trial", "eager", 4, "float32", size=64)
        vim = dataclasses.replace(job, model="Vim-trial", how="mvc, frozen", size=32)
        return [(dataclasses.replace(job, model="tiny"), job, vim)]
    t = Job("T", "mvc, frozen", 128)
    jobs = [job for name in COMPARED for job in _hows(dataclasses.replace(t, model=name), "mvc, frozen", "inductor")]
    return [(t, *_hows(t, "inductor"), *jobs)]


def _beside_published(job: Job) -> Comparison:
    peers = [dataclasses.replace(job, model=name) for name in ("ConvNeXt-T", "Swin-T")]
    theirs = _published(job)
    return (
        theirs,
        *_hows(job, "mvc, frozen", *FORCED, "mvc", "inductor"),
        *peers,
        *_hows(theirs, "eager"),
        *_hows(job, "eager"),
    )


def _published(job: Job) -> Job:
    return dataclasses.replace(job, model=f"{PUBLISHED}{job.model}")


def _hows(job: Job, *hows: str) -> list[Job]:
    return [dataclasses.replace(job, how=how, mode="default" if how == "eager" else job.mode) for how in hows]


def names(comparisons: Sequence[Comparison]) -> list[str]:
    return [str(job) for job in dict.fromkeys(itertools.chain.from_iterable(comparisons))]


def run(session: Session, part: str, comparisons: Sequence[Comparison], until: float) -> None:
    """Measure comparisons until a moment of `time.monotonic`, as many at once as there may be processes."""
    possible = [tuple(job for job in each if _can_run(session, part, job)) for each in comparisons]
    batches = list(packed([each for each in possible if each], session.limits.alive))
    for index, batch in enumerate(batches):
        now = time.monotonic()
        ends = now + max(0.0, until - now) / (len(batches) - index)
        turns.measure(session, part, batch, compile_until=now + COMPILE_SHARE * (ends - now), until=ends)


def packed(comparisons: Sequence[Comparison], alive: int) -> Iterator[list[Comparison]]:
    """Comparisons in batches of at most `alive` jobs. One that is too large is split, with its first job in each part.

    Args:
        alive: at least 2.
    """
    batch: list[Comparison] = []
    for reference, *rest in comparisons:
        for start in range(0, max(1, len(rest)), alive - 1):
            piece = (reference, *rest[start : start + alive - 1])
            if batch and len(names([*batch, piece])) > alive:
                yield batch
                batch = []
            batch.append(piece)
    if batch:
        yield batch


def _can_run(session: Session, part: str, job: Job) -> bool:
    if job.from_timm and importlib.util.find_spec("timm") is None:
        session.skip(part, str(job), "timm is not installed")
    elif job.training and job.model.startswith(PUBLISHED) and published_scan.best(session.device) == "naive":
        session.skip(part, str(job), "mamba-ssm is not installed, and the naive scan has no backward")
    else:
        return True
    return False
