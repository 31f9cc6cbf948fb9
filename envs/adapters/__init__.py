"""Suites of environments: each module declares one as `SUITE`, and adapts its environments where that is needed.

A new suite is a module here and a table in `envs/tasks/suites`; both are found by their folder. A module must import
without the packages of its suite.
"""
