"""Planning within budgets, and carrying a plan out."""
