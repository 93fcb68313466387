"""The class names of published data sets, in the order of their networks' outputs."""

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
"""The number of a noun in WordNet, alone or in front of the noun, as in `n01440764_tench`."""


def plain(name: str) -> str:
    """Return the form in which names are compared, without case and separators of words."""
    synset = _SYNSET.match(name)
    return synset[1] if synset else re.sub(r"[\W_]+", " ", name.casefold()).strip()


@dataclass(frozen=True, slots=True)
class ClassNames:
    """The class numbers of a network, by exact name and by those `plain` names that are unique."""

    exact: Mapping[str, int]
    loose: Mapping[str, int]

    @classmethod
    def of(cls, names: list[str]) -> ClassNames:
        """Index names that are in the order of the classes.

        Names with the same `plain` form have to match exactly: in ImageNet, Cardigan is a dog and
        cardigan a garment.
        """
        count = Counter(map(plain, names))
        exact = {name: number for number, name in enumerate(names)}
        loose = {plain(name): number for name, number in exact.items() if count[plain(name)] == 1}
        return cls(exact, loose)

    def number(self, name: str) -> int | None:
        """Return the class with a name, or None if there is none or more than one."""
        return self.exact.get(name, self.loose.get(plain(name)))


def known_classes(outputs: int) -> Iterator[ClassNames]:
    """Yield the class names of every known data set with this number of classes."""
    if outputs == 10:
        yield ClassNames.of(_CIFAR10.split())
    elif outputs == 100:
        yield ClassNames.of(_CIFAR100.split())
    elif outputs == 1000:
        yield ClassNames.of(_synsets())
        yield ClassNames.of(_categories())


def _synsets() -> list[str]:
    """Read the WordNet numbers of ImageNet's classes, in the order of the classes."""
    files = resources.files("alds_cli.datasets")
    return files.joinpath("imagenet_synsets.txt").read_text(encoding="ascii").split()


def _categories() -> list[str]:
    from torchvision.models import ResNet18_Weights  # noqa: PLC0415 - slow to import

    categories: list[str] = ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
    return categories
