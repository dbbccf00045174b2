"""Benchmarks: side by side with peers and limits, ratios first.

Each name is a module with ``run(report) -> Result``, whose keyword arguments are its options;
``./emberflow bench NAME`` runs it and prints what it found.
Method, definitions and the last figures are in README.md.
"""

NAMES = ("claim", "classify", "dispatch", "planner", "sweep")
