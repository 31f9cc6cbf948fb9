"""The report of evaluations: page, charts and videos."""
