"""The placement problem and its proof: Lagrangian bound, knapsack, branch and bound, integer program."""
