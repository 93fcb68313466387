"""Planning a smaller network within budgets, and carrying the plan out."""
