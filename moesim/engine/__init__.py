"""The clock and what runs on it: execution of step graphs, and the record of a run."""
