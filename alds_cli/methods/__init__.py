"""The one table of every method, with where each comes from.

A method sees error tables and a budget and gives a plan; it never sees a network.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from alds_cli.architectures.naming import parse_argument
from alds_cli.errors import OptionError
from alds_cli.methods import (
    alds,
    alds_error,
    alds_plus,
    alds_simple,
    ft,
    l_rank,
    messi,
    pca,
    pfp,
    svd,
    svd_energy,
    svd_error,
)
from alds_cli.methods.custom import custom_method
from alds_cli.methods.equalising import slices_asked
from alds_cli.methods.method import Method, Planner, Statistic
from alds_cli.methods.solvers import ROUNDINGS, default_bounds
from alds_cli.numerics.fold import SLICED
from alds_cli.records import ArgumentValue

__all__ = [
    "METHODS",
    "Method",
    "Planner",
    "Statistic",
    "method_named",
    "parse_method_spec",
    "schemes_of",
]

_ALDS = "Liebenwein, Maalouf, Feldman, Rus, NeurIPS 2021, https://arxiv.org/abs/2107.11442"
_ROUNDING = {"rounding": ROUNDINGS[0]}

METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "alds": Method(
            "channel slicing; one allocation over the slices and ranks of all layers",
            f"{_ALDS}, Eq. 8",
            alds.plan,
            solvers=default_bounds(),
            arguments=_ROUNDING,
        ),
        "alds+": Method(
            "the same over four ways to fold a kernel as well",
            f"{_ALDS}, supplement A.6",
            alds_plus.plan,
            solvers=default_bounds(),
            schemes=SLICED,
            arguments=_ROUNDING,
        ),
        "alds-error": Method(
            "k slices in every layer, ranks of equal error",
            f"{_ALDS}, supplement C.3",
            alds_error.plan,
            solvers=default_bounds(),
            arguments={"k": 3, **_ROUNDING},
            checks=(slices_asked,),
        ),
        "svd-error": Method(
            "one slice in every layer, ranks of equal error",
            f"{_ALDS}, supplement C.3",
            svd_error.plan,
            solvers=default_bounds(),
            arguments=_ROUNDING,
        ),
        "alds-simple": Method(
            "k slices in every layer, the same ratio in all",
            f"{_ALDS}, supplement C.3",
            alds_simple.plan,
            arguments={"k": 3},
            checks=(slices_asked,),
        ),
        "svd": Method(
            "one slice in every layer, the same ratio in all",
            "Denton, Zaremba, Bruna, LeCun, Fergus, NeurIPS 2014, "
            "https://arxiv.org/abs/1404.0736, Sec. 3.2",
            svd.plan,
        ),
        "svd-energy": Method(
            "one slice, the same share of Σσ² kept in every layer",
            "Alvarez, Salzmann, NeurIPS 2017, https://arxiv.org/abs/1711.02638, Sec. 3.2; "
            "Wen et al., ICCV 2017, https://arxiv.org/abs/1703.09746",
            svd_energy.plan,
        ),
        "l-rank": Method(
            "one slice, the least energy lost plus λ times the cost",
            "Idelbayev, Carreira-Perpiñán, CVPR 2020, Eq. 5, https://openaccess.thecvf.com/"
            "content_CVPR_2020/html/Idelbayev_Low-Rank_Compression_of_Neural_Nets_Learning_"
            "the_Rank_of_Each_CVPR_2020_paper.html",
            l_rank.plan,
            schemes=SLICED,
            arguments={"scheme": 0, "cost": l_rank.COSTS[0]},
            checks=(l_rank.settings,),
        ),
        "messi": Method(
            "the columns of every layer in k clusters by subspace, the same ratio in all",
            "Maalouf, Lang, Feldman, Rus, ICLR 2021, https://openreview.net/forum?id=EQfpYwF3-b; "
            f"{_ALDS}, supplement C.3",
            messi.plan,
            arguments=messi.ARGUMENTS,
            checks=(slices_asked, messi.clustering_options),
            seeded=True,
            targets=("params", "macs", "bytes"),
        ),
        "pca": Method(
            "principal components of the layers' responses to images; the product of energies",
            "Zhang, Zou, He, Sun, TPAMI 2016, https://arxiv.org/abs/1505.06798, Sec. 3.1, Eq. 14",
            pca.plan,
            needs=("responses",),
        ),
        "ft": Method(
            "removes the filters of least ℓ2 norm, the same fraction in every layer",
            "Li, Kadav, Durdanovic, Samet, Graf, ICLR 2017, https://arxiv.org/abs/1608.08710, "
            "Sec. 3.1",
            None,
            prune=ft.prune,
            targets=("params", "macs", "bytes"),
        ),
        "pfp": Method(
            "removes the filters that images show next layers to be least sensitive to",
            "Liebenwein, Baykal, Lang, Feldman, Rus, ICLR 2020, "
            "https://openreview.net/forum?id=BJxk01SYDH, Alg. 1",
            None,
            prune=pfp.prune,
            arguments=pfp.ARGUMENTS,
            checks=(pfp.failure_probability,),
            needs=("sensitivities",),
            targets=("params", "macs", "bytes"),
        ),
    }
)


def method_named(name: str) -> Method:
    """Look a method up; `package.module:object` is one of the user's own.

    Raises:
        OptionError: there is none of that name.
    """
    if name in METHODS:
        return METHODS[name]
    if ":" in name:
        return custom_method(name)
    raise OptionError(
        f"unknown method '{name}'",
        tip=f"choose from {', '.join(METHODS)}, or name one of your own: package.module:object",
    )


def schemes_of(method: Method, arguments: Mapping[str, ArgumentValue]) -> tuple[int, ...]:
    """The folding schemes to tabulate: with an argument `scheme`, that and scheme 0."""
    scheme = arguments.get("scheme")
    if scheme in method.schemes:
        return tuple(sorted({0, int(scheme)}))
    return method.schemes


def parse_method_spec(text: str) -> tuple[str, dict[str, ArgumentValue]]:
    """A method and its arguments in one word: `name`, `name:key=value:key=value`.

    Raises:
        OptionError: an argument has no such form, or is given twice.
    """
    parts = text.split(":")
    given = [part for part in parts if "=" in part]
    name = ":".join(part for part in parts if "=" not in part)
    arguments = dict(parse_argument(part, f"the method {name}") for part in given)
    if len(arguments) < len(given):
        raise OptionError(f"the method {text} has an argument twice", tip="give each once")
    return name, arguments
