"""Passes over step graphs: what runs beside what."""
