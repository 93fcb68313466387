"""Invented runs of a sweep, for the tests of reports."""

from __future__ import annotations

import random

from alds_cli.records import (
    Choice,
    Evaluation,
    Kept,
    Latency,
    LayerReport,
    SweepBaseline,
    SweepRecord,
)

IMAGES = 1000
PARAMS = 270_000
MACS = 40_000_000


def quality(correct, images=IMAGES, top5=None):
    return Evaluation(
        top1=100 * correct / images,
        top5=None if top5 is None else 100 * top5 / images,
        loss=0.5,
        images=images,
    )


def latency(milliseconds):
    return Latency(milliseconds, milliseconds, milliseconds, 10, 1, "cpu")


def baseline(correct=914, top5=990, *, macs=MACS, timed=False, images=IMAGES):
    return SweepBaseline(
        model="model.pt",
        architecture="cifar_resnet20",
        weights_hash="0" * 64,
        params=PARAMS,
        macs=macs,
        bytes=4 * PARAMS,
        data="tensors:/some/where/cifar10.safetensors,test",
        quality=quality(correct, images, top5),
        latency=latency(5.0) if timed else None,
    )


def run(method, ratio, correct, *, repeat=0, epochs=0, top5=None, images=IMAGES, **others):
    """Make a run that removed exactly what was asked for."""
    removed = float(ratio)
    values = {
        "params": round(PARAMS * (1 - removed)),
        "macs": round(MACS * (1 - 0.9 * removed)),
        "quality": quality(correct, images, top5),
        **others,
    }
    return SweepRecord(method, str(ratio), repeat, repeat, epochs, reached=True, **values)


def unreached(method, ratio, *, repeat=0, epochs=0, reason="too much"):
    return SweepRecord(method, str(ratio), repeat, repeat, epochs, reached=False, reason=reason)


def layers(names, removed, *, schemes=(0,), pruned=False):
    """Make layers that each lose a share of their parameters, except for an unchanged first one."""
    found = [LayerReport(names[0], (16, 3, 3, 3), 432, 432, reason="too small")]
    for number, name in enumerate(names[1:]):
        share = max(0.02, (1 - removed) * (1 + 0.3 * ((number * 7) % 5 - 2) / 2))
        before = 64 * 64 * 9
        after = min(before, round(before * share))
        if after == before:
            found.append(LayerReport(name, (64, 64, 3, 3), before, before))
        elif pruned:
            kept = Kept(outputs=tuple(range(max(1, round(64 * share)))))
            found.append(LayerReport(name, (64, 64, 3, 3), before, after, kept=kept))
        else:
            choice = Choice(
                schemes[number % len(schemes)], 2 ** (number % 4), max(1, round(40 * share))
            )
            found.append(LayerReport(name, (64, 64, 3, 3), before, after, choice))
    return tuple(found)


def many(methods=12, ratios=12, repeats=3, count_of_layers=20, *, epochs=(0,), timed=True):
    """Make a sweep like the paper's, of methods that lose accuracy sooner or later."""
    source = random.Random(0)
    names = [
        "conv1",
        *(f"layer{n // 6 + 1}.{n % 6 // 2}.conv{n % 2 + 1}" for n in range(count_of_layers)),
    ]
    specs = [
        "alds",
        "alds+",
        "alds-error:k=3",
        "svd-error",
        "alds-simple:k=3",
        "alds-simple:k=5",
        "messi:k=3",
        "svd",
        "svd-energy",
        "l-rank",
        "pca",
        "ft",
        "pfp",
    ][:methods]
    found = []
    for epoch in epochs:
        for place, method in enumerate(specs):
            for step in range(1, ratios + 1):
                removed = 1 - 0.8**step
                ratio = f"{removed:.12g}"
                if method == "ft" and step > 9:
                    found.append(unreached(method, ratio, epochs=epoch))
                    continue
                for repeat in range(repeats if method.startswith(("messi", "alds", "pca")) else 1):
                    gain = 0.15 if epoch else 1
                    drop = gain * 60 * max(0.0, removed - 0.15) ** 2.5 * (1 + 0.35 * place)
                    noise = source.gauss(0, 1 + drop / 8)
                    correct = round(max(100, 914 - 10 * drop + noise))
                    found.append(
                        run(
                            method,
                            ratio,
                            correct,
                            repeat=repeat,
                            epochs=epoch,
                            top5=min(990, correct + 80),
                            macs=round(MACS * (1 - removed * (0.6 + 0.03 * place))),
                            latency=latency(5 - 3 * removed * (1 - 0.04 * place))
                            if timed
                            else None,
                            latency_before=latency(5.0) if timed else None,
                            layers=layers(
                                names,
                                removed,
                                pruned=method in {"ft", "pfp"},
                                schemes=(0, 1, 2, 3)
                                if method == "alds+"
                                else (4,)
                                if method.startswith("messi")
                                else (0,),
                            ),
                        )
                    )
    return baseline(timed=timed), found
