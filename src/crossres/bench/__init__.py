"""Grids of distillations: their runs, comparison, tables and figures."""
