#!/usr/bin/env bash
# CBC, stopped by its time limit while it prepares a program, says "infeasible" of one that is feasible, and pulp passes
# this on.
#
# The programs here are knapsacks: placing nothing meets the only row, so none is infeasible. With a time limit that ends
# inside the preparation, pulp's status is Infeasible (-1), the same as for a true proof. Nothing in pulp's answer tells
# the two apart: the solution status is "No Solution Found" in both, and the variables hold the values of the linear
# relaxation, so that pulp.value(objective) is a number above the true optimum. With a shorter limit the status is
# "Not Solved"; with a longer one it is "Optimal", also for an answer that is not. The window depends on the machine, so
# limits and sizes are tried in turn until it is hit.
#
# Versions: pulp 3.3.2 with the CBC 2.10.3 that it brings, Python 3.11, Linux on x86-64.
# Seen on 2026-12-01:
#   limit 0.001 s, 50 variables: Infeasible, No Solution Found, objective 15793.3; optimum without a limit: 15699.0
#
# Fails when no limit and no size gives this answer.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pulp==3.3.2

"$folder/venv/bin/python" - <<'PYTHON'
import itertools
import random
import sys

import pulp


def knapsack(variables: int) -> pulp.LpProblem:
    rng = random.Random(1)
    problem = pulp.LpProblem("knapsack", pulp.LpMaximize)
    chosen = [pulp.LpVariable(f"x{number}", cat="Binary") for number in range(variables)]
    weights = [rng.randrange(10**6, 10**7) for _ in chosen]
    problem += pulp.lpSum(rng.randrange(1, 1000) * x for x in chosen)
    problem += pulp.lpSum(weight * x for weight, x in zip(weights, chosen)) <= sum(weights) // 3
    return problem


for variables, limit in itertools.product((50, 500, 2000, 8000), (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)):
    problem = knapsack(variables)
    problem.solve(pulp.PULP_CBC_CMD(msg=False, threads=1, timeLimit=limit))
    if problem.status != pulp.LpStatusInfeasible:
        continue
    said, solution, value = pulp.LpStatus[problem.status], pulp.LpSolution[problem.sol_status], pulp.value(problem.objective)
    whole = knapsack(variables)
    whole.solve(pulp.PULP_CBC_CMD(msg=False, threads=1))
    assert whole.status == pulp.LpStatusOptimal
    best = pulp.value(whole.objective)
    print(f"limit {limit} s, {variables} variables: {said}, {solution}, objective {value:.1f}; optimum without a limit: {best}")
    assert value > best
    sys.exit(0)
raise AssertionError("CBC never said infeasible")
PYTHON
