"""How far to trust moesim: cases with a known answer, what the simulator makes of them, and its error."""

from moesim.validate.cases import Case, Found, Setting, Suite, case
from moesim.validate.judge import Outcome, judge
from moesim.validate.suites import load_suite, suite_names

__all__ = ["Case", "Found", "Outcome", "Setting", "Suite", "case", "judge", "load_suite", "suite_names"]
