"""The one table of every method and the methods themselves."""
