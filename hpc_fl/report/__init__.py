"""A finished or running run as one page to read: `write_report`."""

from hpc_fl.report.html import write_report

__all__ = ["write_report"]
