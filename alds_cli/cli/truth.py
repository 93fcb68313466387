"""The words by which the environment turns an option on or off."""

TRUE = frozenset({"1", "true", "yes", "on"})

FALSE = frozenset({"0", "false", "no", "off"})
