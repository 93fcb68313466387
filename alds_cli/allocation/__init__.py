"""The optimisers: pure functions over option tables."""
