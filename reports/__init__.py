"""Checks, verdicts, figures and pages."""
