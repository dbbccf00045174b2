"""Emberflow: sender warm-up and compliant cold outreach as a data pipeline.

docs/architecture.md lists the packages in their order, with what each may know; contracts in pyproject.toml hold it.
"""
