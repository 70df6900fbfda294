"""Figures for publication: one function each, from the table that is saved beside the figure."""
