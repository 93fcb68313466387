"""The least sum of errors within several budgets: a knapsack with a certified gap."""
