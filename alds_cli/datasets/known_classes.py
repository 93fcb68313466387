"""Names of the classes of published data sets, in the order of their networks' outputs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources

_CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"

_CIFAR100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile
cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp
lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree
orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum
rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train
trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""

_SYNSET = re.compile(r"(n\d{8})(?![0-9A-Za-z])")
"""WordNet's number of a noun, alone or before the noun, as in `n01440764_tench`."""


def plain(name: str) -> str:
    """A name as it is compared: case and what parts its words do not matter."""
    synset = _SYNSET.match(name)
    return synset[1] if synset else re.sub(r"[\W_]+", " ", name.casefold()).strip()


@dataclass(frozen=True, slots=True)
class ClassNames:
    """Names of a network's classes: as they are, and as `plain` has those it leaves apart."""

    exact: Mapping[str, int]
    loose: Mapping[str, int]

    @classmethod
    def of(cls, names: list[str]) -> ClassNames:
        """Names in the order of the classes.

        ImageNet has a Cardigan, which is a dog, and a cardigan: what is plainly both is neither.
        """
        count = Counter(map(plain, names))
        exact = {name: number for number, name in enumerate(names)}
        loose = {plain(name): number for name, number in exact.items() if count[plain(name)] == 1}
        return cls(exact, loose)

    def number(self, name: str) -> int | None:
        """The class of that name; None where there is none, or no single one."""
        return self.exact.get(name, self.loose.get(plain(name)))


def known_classes(outputs: int) -> Iterator[ClassNames]:
    """Names of every data set of so many classes whose names are known."""
    if outputs == 10:
        yield ClassNames.of(_CIFAR10.split())
    elif outputs == 100:
        yield ClassNames.of(_CIFAR100.split())
    elif outputs == 1000:
        yield ClassNames.of(_synsets())
        yield ClassNames.of(_categories())


def _synsets() -> list[str]:
    """ImageNet's, whose order is that of the classes."""
    files = resources.files("alds_cli.datasets")
    return files.joinpath("imagenet_synsets.txt").read_text(encoding="ascii").split()


def _categories() -> list[str]:
    from torchvision.models import ResNet18_Weights  # noqa: PLC0415 - slow to import

    categories: list[str] = ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
    return categories
