"""The report: one HTML file that needs nothing else."""

from moesim.report.html.build import write_report

__all__ = ["write_report"]
