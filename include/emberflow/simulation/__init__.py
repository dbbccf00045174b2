"""Seeded worlds for tests and benchmarks; a virtual clock and a virtual provider are not built yet."""
