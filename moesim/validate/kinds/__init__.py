"""The kinds of cases, one file per subject; every module of this folder is imported when suites are read."""
